"""Open-Sora 1.2, and folders of its kind, from their configurations alone: modules without values."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.models.base_weights import without_weights
from phys4d.models.headers import read_json
from phys4d.models.opensora.backbone import STEPS, OpenSoraBackbone, published_shift
from phys4d.models.opensora.codec import OpenSoraCodec, OpenSoraVAE
from phys4d.models.opensora.published import read_config, settings_of
from phys4d.models.opensora.text import TOKENS
from phys4d.models.opensora.transformer import STDiT3
from phys4d.models.spec import Bare, Parts, Settings

PUBLISHED = "opensora-1.2"
"""The name of the released model: the defaults of STDiT3, OpenSoraVAE and `TEXT` are its configurations."""
TEXT: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "dtype": "bfloat16",
}  # fmt: skip


class TextWithoutValues(nn.Module):
    """In place of the text encoder: its weights without values, and tokens of zeros."""

    tokens = TOKENS

    def __init__(self, table: dict[str, Any]) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        self.width = table["d_model"]
        dtype = getattr(torch, table.get("dtype") or table.get("torch_dtype") or "float32")
        with without_weights():
            self.model = T5EncoderModel(T5Config.from_dict(table)).to(dtype)
        self.model.encoder.embed_tokens = self.model.shared  # one table; without values it was made twice

    def __call__(self, captions: Sequence[str]) -> Tensor:
        return torch.zeros(len(captions), self.tokens, self.width)


def strides(transformer: STDiT3) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels under one token."""
    t, h, w = transformer.patch
    return OpenSoraCodec.temporal_stride * t, OpenSoraCodec.spatial_stride * h, OpenSoraCodec.spatial_stride * w


def bare(settings: Settings, source: Path | None) -> Bare:
    """Of a folder with config.json of transformer/, vae/ and text_encoder/, or, for None, of the released model."""
    table: dict[str, Any] = {}
    vae: dict[str, Any] = {}
    text = TEXT
    if source is not None:
        table = settings_of(read_config(source / "transformer" / "config.json", "STDiT3"))
        vae = read_config(source / "vae" / "config.json", "VideoAutoencoderPipeline")
        text = read_json(source / "text_encoder" / "config.json")

    encoder = cache(lambda: TextWithoutValues(text))

    def build(layers: int, taps: tuple[int, ...], seed: int) -> Parts:
        assert layers % 2 == 0, layers
        with without_weights():
            network = STDiT3(**table | {"depth": layers // 2})
            codec = OpenSoraCodec(vae)
            codec._modules["vae"] = OpenSoraVAE(vae).eval().requires_grad_(False)
        return Parts(OpenSoraBackbone(network, taps), codec, encoder())

    with without_weights():
        whole = STDiT3(**table)
    return Bare(
        layers=len(whole.blocks),
        token_stride=strides(whole),
        steps=STEPS,
        shift=1.0,
        build=build,
        shift_of=published_shift,
        period=2,
    )
