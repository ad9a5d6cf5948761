"""Captions to tokens by T5 v1.1, the text encoder of Open-Sora 1.2."""

from pathlib import Path

import torch
from torch import Tensor

from phys4d.models.t5 import TextOfT5

TOKENS = 300


class T5Encoder(TextOfT5):
    """transformers' T5EncoderModel (DeepFloyd/t5-v1_1-xxl as published).

    A caption is written in lower case, stripped, and cut to `tokens`, as the public code does where its cleaning of
    captions from the web (addresses, file names, punctuation) is switched off. That cleaning is not done here.
    """

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int = TOKENS) -> None:
        super().__init__(text_encoder, tokenizer, tokens)

    def written(self, caption: str) -> str:
        return caption.lower().strip()


def lengths_of(text: Tensor) -> Tensor:
    """How many tokens each clip's caption has, [B] integers, from tokens [B, L, D] with zeros behind the last."""
    place = torch.arange(1, text.shape[1] + 1, device=text.device)
    return ((text != 0).any(-1) * place).amax(1)
