"""What a released folder holds, looked at without reading weights: classes, configurations, headers, the scheduler."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, WanTransformer3DModel

from phys4d.engine.errors import UserError
from phys4d.models.diffusers_folder import (
    check_layout,
    check_stored,
    check_text,
    on_meta,
    read_config,
)
from phys4d.models.headers import read_json
from phys4d.models.wan.schedule import published_shift

TAKEN = "Wan2.2-TI2V"
LAYOUT = f"expected the diffusers layout of {TAKEN}-5B"


@dataclass(frozen=True)
class Published:
    """A released folder's transformer and autoencoder on torch's meta device, and the shift of its scheduler."""

    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    shift: float


def check_released(folder: Path, *, text_weights: bool = True) -> Published:
    """UserError, one line, unless `folder` is a whole model of the kind of Wan2.2-TI2V-5B in diffusers' layout.

    Looked at are class names, configurations, that every tensor they ask for is stored whole with its shape, and the
    tokenizer's files. text_weights: whether the text encoder's weights must be there.
    """
    check_layout(folder, LAYOUT)
    _check_index(folder / "model_index.json")
    transformer = check_transformer(folder / "transformer")
    vae = check_vae(folder / "vae")
    channels = (transformer.config.in_channels, transformer.config.out_channels, vae.config.z_dim)
    if len(set(channels)) > 1:
        raise UserError(
            f"{folder}: the transformer takes {channels[0]} channels and gives {channels[1]}, the vae has "
            f"{channels[2]}: only text-to-video models with the first frame in the latents ({TAKEN}) are taken"
        )
    check_text(folder, "UMT5", transformer.config.text_dim, LAYOUT, weights=text_weights)
    return Published(transformer, vae, published_shift(folder))


def _check_index(path: Path) -> None:
    """UserError where model_index.json says that there is one timestep for each clip."""
    index = read_index(path, TAKEN)
    if index is not None and index.get("expand_timesteps") is not True:
        raise UserError(
            f"{path}: expand_timesteps: {index.get('expand_timesteps', 'absent')}: only models with one timestep per "
            'token (Wan2.2-TI2V) are taken: for Wan2.1, with one per clip, set model.kind = "wan21"'
        )


def read_index(path: Path, taken: str) -> dict[str, Any] | None:
    """The table of model_index.json, None where there is none; UserError for a pipeline that is none of Wan with one
    transformer. path: of the file. taken: what is expected, for the message."""
    experts = "two experts (Wan2.2-A14B): only models of one transformer, such as Wan2.2-TI2V-5B, are taken"
    if (path.parent / "transformer_2").is_dir():
        raise UserError(f"{path.parent / 'transformer_2'}: {experts}")
    if not path.is_file():
        return None
    index = read_json(path)
    name = index.get("_class_name")
    if name not in ("WanPipeline", "WanImageToVideoPipeline"):
        raise UserError(f"{path}: _class_name: expected WanPipeline, got {name}: only {taken} is taken")
    if index.get("boundary_ratio") is not None or any(index.get("transformer_2") or ()):
        raise UserError(f"{path}: {experts}")
    return index


def check_transformer(
    folder: Path, *, taken: str = TAKEN, layout: str = LAYOUT, image: bool = False
) -> WanTransformer3DModel:
    """The WanTransformer3DModel of a folder on the meta device, or UserError where it or its weights are not whole.

    folder: of the transformer. taken, layout: what is expected, for messages. image: whether it may read an image.
    """
    path = folder / "config.json"
    config = read_config(path, "WanTransformer3DModel", taken)
    patch = config.get("patch_size", [1, 2, 2])
    if not isinstance(patch, list) or len(patch) != 3 or not all(isinstance(n, int) and n > 0 for n in patch):
        raise UserError(f"{path}: patch_size: expected frames, rows and columns, such as [1, 2, 2], got {patch}")
    for key in () if image else ("image_dim", "added_kv_proj_dim"):
        if config.get(key) is not None:
            raise UserError(f"{path}: {key}: {config[key]}: models that read an image beside the text are not taken")
    transformer = on_meta(path, lambda: WanTransformer3DModel.from_config(config))
    check_stored(folder, transformer, layout)
    return transformer


def check_vae(folder: Path, *, taken: str = TAKEN, layout: str = LAYOUT) -> AutoencoderKLWan:
    """The AutoencoderKLWan of a folder, likewise."""
    path = folder / "config.json"
    config = read_config(path, "AutoencoderKLWan", taken)
    vae = on_meta(path, lambda: AutoencoderKLWan.from_config(config))
    for key in ("latents_mean", "latents_std"):
        if len(vae.config[key]) != vae.config.z_dim:
            raise UserError(f"{path}: {key}: {len(vae.config[key])} numbers for {vae.config.z_dim} channels (z_dim)")
    check_stored(folder, vae, layout)
    return vae
