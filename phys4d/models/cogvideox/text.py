"""Captions to tokens by T5, the text encoder of CogVideoX."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from phys4d.models.t5 import TextOfT5

TOKENS = 226  # of the published models (`max_text_seq_length`)


class T5Encoder(TextOfT5):
    """The text encoder of CogVideoX: transformers' T5EncoderModel.

    Captions become the tokens that diffusers' CogVideoXPipeline makes of the same prompt: padded to `tokens`, without a
    mask, so that the padding is part of the text that the transformer reads.
    """

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int = TOKENS) -> None:
        super().__init__(text_encoder, tokenizer, tokens)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, tokens, width] fp32; ValueError for one that is longer, of which diffusers drops the end."""
        ids = self.tokenizer(list(captions), padding="max_length", max_length=self.tokens).input_ids
        for caption, own in zip(captions, ids, strict=True):
            if len(own) > self.tokens:
                raise ValueError(f"a caption of {len(own)} tokens, at most {self.tokens} are taken: {caption[:60]!r}")
        hidden = self.model(torch.tensor(ids, device=self.place.device)).last_hidden_state
        return hidden.float()
