"""Captions to tokens by T5, the text encoder of CogVideoX."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.models.headers import holds_weights
from phys4d.models.progress_bars import without_progress_bars

TOKENS = 226  # of the published models (`max_text_seq_length`)
_TOKENIZER_FAULTS = (Exception, ValueError, KeyError, TypeError, ImportError)  # `tokenizers` raises the first itself


class T5Encoder(nn.Module):
    """The text encoder of CogVideoX: transformers' T5EncoderModel, frozen, in its stored dtype. Its weights are read
    when it is first used, on the device that it was moved to.

    Captions become the tokens that diffusers' CogVideoXPipeline makes of the same prompt: padded to `tokens`, without a
    mask, so that the padding is part of the text that the transformer reads.

    text_encoder, tokenizer: their folders. tokens: of a caption.
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
        self.place: Tensor
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

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, tokens, width] fp32; ValueError for one that is longer, of which diffusers drops the end."""
        ids = self.tokenizer(list(captions), padding="max_length", max_length=self.tokens).input_ids
        for caption, own in zip(captions, ids, strict=True):
            if len(own) > self.tokens:
                raise ValueError(f"a caption of {len(own)} tokens, at most {self.tokens} are taken: {caption[:60]!r}")
        hidden = self.model(torch.tensor(ids, device=self.place.device)).last_hidden_state
        return hidden.float()
