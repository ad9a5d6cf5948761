"""Captions to tokens without weights: a fixed encoder of words and numbers."""

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

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

    def split(self, caption: str) -> list[str]:
        """The words and numbers of a caption; ValueError for more than this encoder takes."""
        words = _TOKEN.findall(caption.lower())
        if len(words) > self.tokens:
            raise ValueError(f"caption of {len(words)} words: this encoder takes {self.tokens}: {caption!r}")
        return words

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, tokens, width] fp32, zeros behind the last token."""
        out = torch.zeros(len(captions), self.tokens, self.width)
        for row, caption in zip(out, captions, strict=True):
            if words := self.split(caption):
                embedded = torch.stack([self._embed(word) for word in words])
                row[: len(words)] = embedded + self._position[: len(words)]
                row[1 : len(words)] += 0.5 * embedded[:-1]
        return out
