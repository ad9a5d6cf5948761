"""Wan2.2-TI2V-5B as a kind of model."""

from pathlib import Path

from diffusers import WanTransformer3DModel

from phys4d.models.base_weights import without_weights
from phys4d.models.diffusers_folder import class_name, given
from phys4d.models.headers import holds_weights, read_json
from phys4d.models.spec import ModelSpec, Outline, Parts, Settings
from phys4d.models.t5 import encoders_of
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan.bare import PUBLISHED, bare
from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan.lora_names import diffusers_names, original_name
from phys4d.models.wan.published import LAYOUT, Published, check_released
from phys4d.models.wan.schedule import STEPS, published_sampling, published_scheduler
from phys4d.models.wan.text import UMT5Encoder


def _outline(settings: Settings, folder: Path | None) -> Outline:
    folder = given("wan", folder)
    # A run that reads all tokens from caches needs no text encoder; `Encoders.check` asks for its weights.
    return outline_of(check_released(folder, text_weights=holds_weights(folder / "text_encoder")))


def outline_of(published: Published) -> Outline:
    """What a released folder is, from its modules without weights."""
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


def _encoders(folder: Path) -> tuple[WanCodec, UMT5Encoder]:
    return WanCodec(folder / "vae"), UMT5Encoder(folder / "text_encoder", folder / "tokenizer")


def _load(folder: Path, taps: tuple[int, ...]) -> Parts:
    weights = folder / "transformer"
    backbone = WanBackbone(build_transformer(weights), taps, published_scheduler(folder))
    return Parts(backbone, *_encoders(folder), weights)


SPEC = ModelSpec(
    kind="wan",
    title="Wan2.2-TI2V-5B",
    outline=_outline,
    bare=bare,
    load=_load,
    encoders=encoders_of(LAYOUT, "UMT5", _encoders),
    recognises=lambda folder: class_name(folder / "transformer") == WanTransformer3DModel.__name__,
    released=(PUBLISHED,),
    sampling=published_sampling,
    rename_lora=diffusers_names,
    comfyui_name=original_name,
)
