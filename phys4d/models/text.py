"""Captions to tokens: UMT5 for pretrained backbones, a fixed encoder of words and numbers for `tiny`."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

_TOKEN = re.compile(r"[+-]?\d+(?:\.\d+)?|[a-z]+")


class WordEncoder:
    """A deterministic encoder without weights: each word a fixed random direction, each number Fourier features of
    its value.

    Words that differ in a letter are unrelated, numbers that are close are close. Each token also carries half of the
    one before it, so that a number says what it measures ("left 1.8"), and its position as a sinusoid. ValueError for
    captions of more than `tokens` words.
    """

    def __init__(self, width: int = 64, tokens: int = 32) -> None:
        self.width, self.tokens = width, tokens
        self._words: dict[str, Tensor] = {}
        rate = torch.exp(-torch.arange(width // 2) * (4.0 / (width // 2)))
        angle = torch.arange(tokens)[:, None] * rate
        self._position = torch.cat([angle.sin(), angle.cos()], 1) * 0.5
        self._rate = torch.exp(torch.linspace(-1.5, 2.0, width // 2))

    def _embed(self, token: str) -> Tensor:
        if token not in self._words:
            if token[-1].isdigit():
                angle = float(token) * self._rate
                self._words[token] = torch.cat([angle.sin(), angle.cos()])
            else:
                seed = int.from_bytes(hashlib.blake2b(token.encode(), digest_size=7).digest(), "big")
                self._words[token] = torch.randn(self.width, generator=torch.Generator().manual_seed(seed))
        return self._words[token]

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, tokens, width] fp32, zeros behind the last token."""
        out = torch.zeros(len(captions), self.tokens, self.width)
        for row, caption in zip(out, captions, strict=True):
            words = _TOKEN.findall(caption.lower())
            if len(words) > self.tokens:
                raise ValueError(f"caption of {len(words)} words: this encoder takes {self.tokens}: {caption!r}")
            for i, word in enumerate(words):
                row[i] = self._embed(word) + self._position[i]
                if i:
                    row[i] += 0.5 * self._embed(words[i - 1])
        return out


class UMT5Encoder(nn.Module):
    """The text encoder of Wan: transformers' UMT5EncoderModel, frozen, 512 tokens, zeros behind the last one."""

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int = 512) -> None:
        super().__init__()
        from transformers import AutoTokenizer, UMT5EncoderModel

        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.model = UMT5EncoderModel.from_pretrained(text_encoder, use_safetensors=True).eval().requires_grad_(False)
        self.width, self.tokens = self.model.config.d_model, tokens

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, 512, width]."""
        batch = self.tokenizer(
            list(captions), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        mask = batch.attention_mask.to(self.model.device)
        hidden = self.model(batch.input_ids.to(self.model.device), mask).last_hidden_state
        return hidden * mask[..., None]
