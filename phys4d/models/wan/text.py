"""Captions to tokens by UMT5, the text encoder of Wan."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.models.progress_bars import without_progress_bars

_TOKENIZER_FAULTS = (Exception, ValueError, KeyError, TypeError, ImportError)  # `tokenizers` raises the first itself


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
        with without_progress_bars():
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
