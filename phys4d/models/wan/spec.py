"""Wan2.2-TI2V-5B as a kind of model."""

from pathlib import Path

from diffusers import WanTransformer3DModel

from phys4d.engine.errors import UserError
from phys4d.models.base_weights import without_weights
from phys4d.models.diffusers_folder import class_name
from phys4d.models.headers import read_json
from phys4d.models.spec import ModelSpec, Outline, Parts, Settings
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan.bare import PUBLISHED, bare
from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan.lora_names import diffusers_names
from phys4d.models.wan.published import check_released
from phys4d.models.wan.schedule import STEPS
from phys4d.models.wan.text import UMT5Encoder


def _outline(settings: Settings, folder: Path | None) -> Outline:
    if folder is None:
        raise UserError('model.kind: "wan" without init: name the folder of the released model as init')
    published = check_released(folder)
    transformer, vae = published.transformer.config, published.vae.config
    t, h, w = transformer.patch_size
    temporal, spatial = vae.scale_factor_temporal, vae.scale_factor_spatial
    return Outline(
        transformer=published.transformer,
        layers=transformer.num_layers,
        width=transformer.num_attention_heads * transformer.attention_head_dim,
        heads=transformer.num_attention_heads,
        channels=vae.z_dim,
        token_stride=(temporal * t, spatial * h, spatial * w),
        steps=STEPS,
        shift=published.shift,
    )


def build_transformer(folder: Path) -> WanTransformer3DModel:
    """The transformer of a folder, without its weights: in fp32, whatever they are stored in, since it is trained; in
    bf16 the small steps of an optimizer are rounded away."""
    with without_weights():
        return WanTransformer3DModel.from_config(read_json(folder / "config.json"))


def _load(folder: Path, taps: tuple[int, ...]) -> Parts:
    return Parts(
        WanBackbone(build_transformer(folder / "transformer"), taps),
        WanCodec(folder / "vae"),
        UMT5Encoder(folder / "text_encoder", folder / "tokenizer"),
        folder / "transformer",
    )


SPEC = ModelSpec(
    kind="wan",
    title="Wan2.2-TI2V-5B",
    outline=_outline,
    bare=bare,
    load=_load,
    recognises=lambda folder: class_name(folder / "transformer") == WanTransformer3DModel.__name__,
    released=PUBLISHED,
    rename_lora=diffusers_names,
)
