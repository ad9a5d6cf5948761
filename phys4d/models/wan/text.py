"""Captions to tokens by UMT5, the text encoder of Wan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.models.headers import holds_weights
from phys4d.models.progress_bars import without_progress_bars

_TOKENIZER_FAULTS = (Exception, ValueError, KeyError, TypeError, ImportError)  # `tokenizers` raises the first itself


class UMT5Encoder(nn.Module):
    """The text encoder of Wan: transformers' UMT5EncoderModel, frozen, in its stored dtype (bf16 as published). Its
    weights are read when it is first used, on the device that it was moved to.

    Captions become the tokens that diffusers' WanPipeline makes of the same prompt: cleaned by its `prompt_clean`
    (mojibake mended by ftfy, HTML entities resolved twice, white space collapsed), then cut to `tokens`.
    """

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int = 512) -> None:
        super().__init__()
        from transformers import AutoTokenizer, UMT5Config

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        except Exception as error:
            if type(error) not in _TOKENIZER_FAULTS:
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"{tokenizer}: does not load ({reason}): download it again") from None
        self.folder = text_encoder
        self.register_buffer("place", torch.empty(0), persistent=False)  # moves with the module
        config = UMT5Config.from_pretrained(text_encoder)
        self.width, self.tokens = config.d_model, tokens
        if len(self.tokenizer) > config.vocab_size:
            words = f"{len(self.tokenizer)} words, {text_encoder} has {config.vocab_size}"
            raise UserError(f"{tokenizer}: {words}: are they of one model?")

    @property
    def model(self) -> Any:
        """The encoder with its weights, on this module's device."""
        if "model" not in self._modules:
            from transformers import UMT5EncoderModel

            if not holds_weights(self.folder):
                raise UserError(f"{self.folder}: no weights of the text encoder, and captions that no cache holds")
            with without_progress_bars():
                model = UMT5EncoderModel.from_pretrained(self.folder, dtype="auto", use_safetensors=True)
            self._modules["model"] = model.to(self.place.device).eval().requires_grad_(False)
        return self._modules["model"]

    def check(self, prompt: str) -> None:
        """ValueError for a prompt of more than `tokens` tokens, the last of which ends the text."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        if (count := len(self.tokenizer(prompt_clean(prompt)).input_ids)) > self.tokens:
            raise ValueError(f"{count} tokens, the text encoder takes {self.tokens}: shorten it")

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
