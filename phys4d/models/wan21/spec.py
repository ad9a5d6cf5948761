"""Wan2.1-T2V and Wan2.1-I2V as a kind of model."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from phys4d.engine.errors import UserError
from phys4d.models.diffusers_folder import class_name, given
from phys4d.models.headers import holds_weights, read_json
from phys4d.models.spec import ModelSpec, Outline, Parts, Settings
from phys4d.models.t5 import encoders_of
from phys4d.models.wan.lora_names import diffusers_names, original_name
from phys4d.models.wan.spec import build_transformer, outline_of
from phys4d.models.wan.text import UMT5Encoder
from phys4d.models.wan21.backbone import Wan21Backbone
from phys4d.models.wan21.bare import TRANSFORMERS, bare
from phys4d.models.wan21.codec import Wan21Codec
from phys4d.models.wan21.image import ImageEncoder
from phys4d.models.wan21.published import LAYOUT, check_released
from phys4d.models.wan21.schedule import published_sampling, published_scheduler, shift_of

_VAE = "AutoencoderKLWan"


def _outline(settings: Settings, folder: Path | None) -> Outline:
    folder = given("wan21", folder)
    found = outline_of(check_released(folder, text_weights=holds_weights(folder / "text_encoder")))
    return replace(found, shift_of=partial(shift_of, found.shift))


def _encoders(folder: Path) -> tuple[Wan21Codec, UMT5Encoder]:
    reads_image = read_json(folder / "transformer" / "config.json").get("image_dim") is not None
    codec = Wan21Codec(folder / "vae", ImageEncoder(folder) if reads_image else None)
    return codec, UMT5Encoder(folder / "text_encoder", folder / "tokenizer")


def _load(folder: Path, taps: tuple[int, ...]) -> Parts:
    weights, (codec, text) = folder / "transformer", _encoders(folder)
    tokens = 0 if codec.image is None else codec.image.tokens
    backbone = Wan21Backbone(build_transformer(weights), taps, published_scheduler(folder), tokens)
    return Parts(backbone, codec, text, weights)


def _recognises(folder: Path) -> bool:
    """A Wan transformer with one timestep for each clip, as the pipeline says, or, without model_index.json, one on the
    autoencoder of Wan2.1."""
    if class_name(folder / "transformer") != "WanTransformer3DModel":
        return False
    try:
        if (index := folder / "model_index.json").is_file():
            return read_json(index).get("expand_timesteps") is not True
        vae = read_json(folder / "vae" / "config.json")
        return vae.get("_class_name", _VAE) == _VAE and vae.get("scale_factor_spatial", 8) == 8
    except UserError:
        return False


SPEC = ModelSpec(
    kind="wan21",
    title="Wan2.1",
    outline=_outline,
    bare=bare,
    load=_load,
    encoders=encoders_of(LAYOUT, "UMT5", _encoders),
    recognises=_recognises,
    released=tuple(TRANSFORMERS),
    sampling=published_sampling,
    rename_lora=diffusers_names,
    comfyui_name=original_name,
)
