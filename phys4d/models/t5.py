"""Captions to tokens by a text encoder of the T5 family: what those of several kinds of models share."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.models.base_weights import without_weights
from phys4d.models.diffusers_folder import check_t5_encoder, t5_classes
from phys4d.models.headers import holds_weights
from phys4d.models.interface import Codec
from phys4d.models.origin import origin
from phys4d.models.progress_bars import without_progress_bars
from phys4d.models.spec import Encoders

TEXT_XXL: dict[str, Any] = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu",
    "dtype": "bfloat16",
}  # fmt: skip
"""The text encoder that the published models have in common, but for the size of its vocabulary."""
_TOKENIZER_FAULTS = (Exception, ValueError, KeyError, TypeError, ImportError)  # `tokenizers` raises the first itself


class TextOfT5(nn.Module):
    """transformers' encoder of a family, frozen, in its stored dtype. Its weights are read when it is first used, on
    the device that it was moved to.

    A subclass says how captions are written (`written`); as they are here, tokens are cut, and zero behind the last.

    text_encoder, tokenizer: their folders. tokens: of a caption.
    """

    family: ClassVar[str] = "T5"

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int) -> None:
        super().__init__()
        from transformers import AutoTokenizer

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
        config = t5_classes(self.family)[0].from_pretrained(text_encoder)
        self.width, self.tokens = config.d_model, tokens
        if len(self.tokenizer) > config.vocab_size:
            words = f"{len(self.tokenizer)} words, {text_encoder} has {config.vocab_size}"
            raise UserError(f"{tokenizer}: {words}: are they of one model?")

    @property
    def model(self) -> Any:
        """The encoder with its weights, on this module's device."""
        if "model" not in self._modules:
            if not holds_weights(self.folder):
                raise UserError(f"{self.folder}: no weights of the text encoder, and captions that no cache holds")
            encoder = t5_classes(self.family)[1]
            with without_progress_bars():
                model = encoder.from_pretrained(self.folder, dtype="auto", use_safetensors=True)
            self._modules["model"] = model.to(self.place.device).eval().requires_grad_(False)
        return self._modules["model"]

    def written(self, caption: str) -> str:
        """A caption as it is given to the tokenizer."""
        return caption

    def check(self, prompt: str) -> None:
        """ValueError for a prompt of more than `tokens` tokens, the last of which ends the text."""
        if (count := len(self.tokenizer(self.written(prompt)).input_ids)) > self.tokens:
            raise ValueError(f"{count} tokens, the text encoder takes {self.tokens}: shorten it")

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, tokens, width] fp32, zeros behind the last token."""
        batch = self.tokenizer(
            [self.written(caption) for caption in captions], padding="max_length", max_length=self.tokens,
            truncation=True, add_special_tokens=True, return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        mask = batch.attention_mask.to(self.model.device)
        hidden = self.model(batch.input_ids.to(self.model.device), mask).last_hidden_state
        return hidden.float().masked_fill(mask[..., None] == 0, 0.0)


def encoders_of(layout: str, family: str, build: Callable[[Path], tuple[Codec, TextOfT5]]) -> Encoders:
    """`Encoders` of a kind whose models are folders with a text encoder of this family.

    layout: what is expected, for messages. family: as of `t5_classes`. build: codec and text encoder of such a folder.
    """

    def of(folder: Path | None) -> Path:
        assert folder is not None, "a released model has weights"
        return folder

    return Encoders(
        build=lambda folder: build(of(folder)),
        origin=partial(origin, layout),
        check=lambda folder: check_t5_encoder(of(folder) / "text_encoder", family, layout),
        check_prompt=lambda encoder, prompt: encoder.check(prompt),
    )


class TextWithoutValues(nn.Module):
    """In place of a text encoder: its weights without values, and tokens of zeros.

    family: as of `t5_classes`. table: config.json. tokens: of a caption.
    """

    def __init__(self, family: str, table: dict[str, Any], tokens: int) -> None:
        super().__init__()
        config, encoder = t5_classes(family)
        self.width, self.tokens = table["d_model"], tokens
        dtype = getattr(torch, table.get("dtype") or table.get("torch_dtype") or "float32")
        with without_weights():
            self.model = encoder(config.from_dict(table)).to(dtype)
        self.model.encoder.embed_tokens = self.model.shared  # one table; without values it was made twice

    def __call__(self, captions: Sequence[str]) -> Tensor:
        return torch.zeros(len(captions), self.tokens, self.width)
