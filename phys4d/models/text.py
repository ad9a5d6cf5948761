"""Captions to tokens: UMT5 for pretrained backbones, a fixed encoder of words and numbers for `tiny`."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.models.quiet import no_bars

_TOKENIZER_FAULTS = (Exception, ValueError, KeyError, TypeError, ImportError)  # `tokenizers` raises the first itself
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

    def words(self, caption: str) -> list[str]:
        """The words and numbers of a caption; ValueError for more than this encoder takes."""
        words = _TOKEN.findall(caption.lower())
        if len(words) > self.tokens:
            raise ValueError(f"caption of {len(words)} words: this encoder takes {self.tokens}: {caption!r}")
        return words

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, tokens, width] fp32, zeros behind the last token."""
        out = torch.zeros(len(captions), self.tokens, self.width)
        for row, caption in zip(out, captions, strict=True):
            words = self.words(caption)
            for i, word in enumerate(words):
                row[i] = self._embed(word) + self._position[i]
                if i:
                    row[i] += 0.5 * self._embed(words[i - 1])
        return out


class UMT5Encoder(nn.Module):
    """The text encoder of Wan: transformers' UMT5EncoderModel, frozen, in its stored dtype (bf16 as published).

    Captions become the tokens that diffusers' WanPipeline makes of the same prompt: cleaned by its `prompt_clean`
    (mojibake mended by ftfy, HTML entities resolved twice, white space collapsed), then cut to `tokens`.
    """

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int = 512) -> None:
        super().__init__()
        from transformers import AutoTokenizer, UMT5EncoderModel

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        except Exception as error:
            if type(error) not in _TOKENIZER_FAULTS:
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"{tokenizer}: does not load ({reason}): download it again") from None
        with no_bars():
            model = UMT5EncoderModel.from_pretrained(text_encoder, dtype="auto", use_safetensors=True)
        self.model = model.eval().requires_grad_(False)
        self.width, self.tokens = self.model.config.d_model, tokens
        if len(self.tokenizer) > self.model.config.vocab_size:
            words = f"{len(self.tokenizer)} words, {text_encoder} has {self.model.config.vocab_size}"
            raise UserError(f"{tokenizer}: {words}: are they of one model?")

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, 512, width] fp32 (what the transformer takes), zeros behind the last token."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        batch = self.tokenizer(
            [prompt_clean(caption) for caption in captions], padding="max_length", max_length=self.tokens,
            truncation=True, add_special_tokens=True, return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        mask = batch.attention_mask.to(self.model.device)
        hidden = self.model(batch.input_ids.to(self.model.device), mask).last_hidden_state
        return hidden.float().masked_fill(mask[..., None] == 0, 0.0)
