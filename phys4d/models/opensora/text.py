"""Captions to tokens by T5 v1.1, the text encoder of Open-Sora 1.2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.models.headers import holds_weights
from phys4d.models.progress_bars import without_progress_bars

TOKENS = 300
_TOKENIZER_FAULTS = (Exception, ValueError, KeyError, TypeError, ImportError)  # `tokenizers` raises the first itself


class T5Encoder(nn.Module):
    """transformers' T5EncoderModel (DeepFloyd/t5-v1_1-xxl as published), frozen, in its stored dtype. Its weights are
    read when it is first used, on the device that it was moved to.

    A caption is written in lower case, stripped, and cut to `tokens`, as the public code does where its cleaning of
    captions from the web (addresses, file names, punctuation) is switched off. That cleaning is not done here.

    text_encoder, tokenizer: folders. tokens: of a caption, those behind its end zero.
    """

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int = TOKENS) -> None:
        super().__init__()
        from transformers import AutoTokenizer, T5Config

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        except Exception as error:
            if type(error) not in _TOKENIZER_FAULTS:
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"{tokenizer}: does not load ({reason}): download it again") from None
        self.folder = text_encoder
        self.register_buffer("place", torch.empty(0), persistent=False)  # moves with the module
        config = T5Config.from_pretrained(text_encoder)
        self.width, self.tokens = config.d_model, tokens
        if len(self.tokenizer) > config.vocab_size:
            words = f"{len(self.tokenizer)} words, {text_encoder} has {config.vocab_size}"
            raise UserError(f"{tokenizer}: {words}: are they of one model?")

    @property
    def model(self) -> Any:
        """The encoder with its weights, on this module's device."""
        if "model" not in self._modules:
            from transformers import T5EncoderModel

            if not holds_weights(self.folder):
                raise UserError(f"{self.folder}: no weights of the text encoder, and captions that no cache holds")
            with without_progress_bars():
                model = T5EncoderModel.from_pretrained(self.folder, dtype="auto", use_safetensors=True)
            self._modules["model"] = model.to(self.place.device).eval().requires_grad_(False)
        return self._modules["model"]

    def check(self, caption: str) -> None:
        """ValueError for a caption that would be cut."""
        if (count := len(self.tokenizer(_written(caption)).input_ids)) > self.tokens:
            raise ValueError(f"{count} tokens, the text encoder takes {self.tokens}: shorten it")

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, 300, width] fp32, zeros behind the last token."""
        batch = self.tokenizer(
            [_written(caption) for caption in captions], padding="max_length", max_length=self.tokens,
            truncation=True, add_special_tokens=True, return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        mask = batch.attention_mask.to(self.model.device)
        hidden = self.model(batch.input_ids.to(self.model.device), mask).last_hidden_state
        return hidden.float().masked_fill(mask[..., None] == 0, 0.0)


def _written(caption: str) -> str:
    return caption.lower().strip()


def lengths_of(text: Tensor) -> Tensor:
    """How many tokens each clip's caption has, [B] integers, from tokens [B, L, D] with zeros behind the last."""
    place = torch.arange(1, text.shape[1] + 1, device=text.device)
    return ((text != 0).any(-1) * place).amax(1)
