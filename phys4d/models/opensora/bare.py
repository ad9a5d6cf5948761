"""Open-Sora 1.2, and folders of its kind, from their configurations alone: modules without values."""

from functools import cache
from pathlib import Path
from typing import Any

from phys4d.models.base_weights import without_weights
from phys4d.models.headers import read_json
from phys4d.models.opensora.backbone import STEPS, OpenSoraBackbone, published_shift
from phys4d.models.opensora.codec import OpenSoraCodec, OpenSoraVAE
from phys4d.models.opensora.published import read_config, settings_of
from phys4d.models.opensora.text import TOKENS
from phys4d.models.opensora.transformer import STDiT3
from phys4d.models.spec import Bare, Parts, Published, Settings
from phys4d.models.t5 import TEXT_XXL, TextWithoutValues

PUBLISHED = "opensora-1.2"
"""The name of the released model: the defaults of STDiT3, OpenSoraVAE and `TEXT` are its configurations."""
TEXT = TEXT_XXL | {"vocab_size": 32128}


def strides(transformer: STDiT3) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels under one token."""
    t, h, w = transformer.patch
    return OpenSoraCodec.temporal_stride * t, OpenSoraCodec.spatial_stride * h, OpenSoraCodec.spatial_stride * w


def bare(settings: Settings, source: Published) -> Bare:
    """Of a folder with config.json of transformer/, vae/ and text_encoder/, or else of the released model."""
    table: dict[str, Any] = {}
    vae: dict[str, Any] = {}
    text = TEXT
    if isinstance(source, Path):
        table = settings_of(read_config(source / "transformer" / "config.json", "STDiT3"))
        vae = read_config(source / "vae" / "config.json", "VideoAutoencoderPipeline")
        text = read_json(source / "text_encoder" / "config.json")

    encoder = cache(lambda: TextWithoutValues("T5", text, TOKENS))

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
