"""What a released folder holds, looked at without reading weights: classes, configurations, headers of files.

The folder is made of three published ones and a tokenizer, with the files as they were published:

transformer/     of hpcai-tech/OpenSora-STDiT-v3: config.json, model.safetensors
vae/             of hpcai-tech/OpenSora-VAE-v1.2: config.json, model.safetensors
text_encoder/    of DeepFloyd/t5-v1_1-xxl: config.json and its weights as safetensors
tokenizer/       of the same: tokenizer_config.json, spiece.model or tokenizer.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phys4d.engine.errors import UserError
from phys4d.engine.limits import LAYERS
from phys4d.models.diffusers_folder import (
    check_layout,
    check_numbers,
    check_stored,
    check_text,
    check_unquantised,
    on_meta,
)
from phys4d.models.headers import read_json
from phys4d.models.opensora.codec import CHUNK, OpenSoraVAE
from phys4d.models.opensora.transformer import STDiT3

TAKEN = "Open-Sora 1.2"
LAYOUT = f"expected the folders of {TAKEN} (OpenSora-STDiT-v3, OpenSora-VAE-v1.2, t5-v1_1-xxl)"
SETTINGS = (
    "hidden_size", "depth", "num_heads", "mlp_ratio", "in_channels", "patch_size", "caption_channels",
    "model_max_length", "pred_sigma", "qk_norm", "input_sq_size",
)  # fmt: skip
_VAE = "VideoAutoencoderPipeline"


@dataclass(frozen=True)
class Published:
    """A released folder's transformer and autoencoder on torch's meta device."""

    transformer: STDiT3
    vae: OpenSoraVAE


def check_released(folder: Path, *, text_weights: bool = True) -> Published:
    """UserError, one line, unless `folder` is a whole Open-Sora 1.2 in the layout above.

    Looked at are class names, configurations, that every tensor they ask for is stored whole with its shape, and the
    tokenizer's files. text_weights: whether the text encoder's weights must be there.
    """
    check_layout(folder, LAYOUT)
    transformer = check_transformer(folder / "transformer")
    vae = _check_vae(folder / "vae")
    channels, latents = transformer.config.in_channels, len(vae.scale.flatten())
    if channels != latents:
        raise UserError(f"{folder}: the transformer takes {channels} channels, the vae has {latents}: of one model?")
    check_text(folder, "T5", transformer.config.caption_channels, LAYOUT, weights=text_weights)
    return Published(transformer, vae)


def class_of(table: dict[str, Any]) -> str:
    """The class that a config.json names: diffusers' key where it was written here, transformers' as published."""
    return str(table.get("_class_name") or next(iter(table.get("architectures") or ["none"])))


def read_config(path: Path, expected: str) -> dict[str, Any]:
    """The table of the config.json at `path`, of the class `expected` and not quantised."""
    table = read_json(path)
    if class_of(table) != expected:
        raise UserError(f"{path}: architectures: expected {expected}, got {class_of(table)}: only {TAKEN} is taken")
    check_unquantised(path, table)
    for part in (table, *(value for value in table.values() if isinstance(value, dict))):
        check_numbers(path, part)
    depth = table.get("depth")
    if isinstance(depth, int) and depth > LAYERS:
        raise UserError(f"{path}: depth: {str(depth)[:12]}, at most {LAYERS} is taken: download it again")
    return table


def settings_of(table: dict[str, Any]) -> dict[str, Any]:
    """The arguments of STDiT3 that a config.json holds."""
    return {key: table[key] for key in SETTINGS if key in table}


def check_transformer(folder: Path) -> STDiT3:
    """The STDiT3 of a folder on the meta device, or UserError where it or its weights are not whole."""
    path = folder / "config.json"
    table = read_config(path, "STDiT3")
    if table.get("skip_y_embedder"):
        raise UserError(f"{path}: skip_y_embedder: true: only models that embed captions are taken")
    transformer: STDiT3 = on_meta(path, lambda: STDiT3(**settings_of(table)))
    if transformer.patch[0] != 1:
        raise UserError(f"{path}: patch_size: {list(transformer.patch)}: only patches of one latent frame are taken")
    check_stored(folder, transformer, LAYOUT)
    return transformer


def _check_vae(folder: Path) -> OpenSoraVAE:
    path = folder / "config.json"
    table = read_config(path, _VAE)
    if table.get("micro_frame_size", CHUNK) != CHUNK:
        raise UserError(f"{path}: micro_frame_size: {table['micro_frame_size']}: only {CHUNK} is taken")
    vae: OpenSoraVAE = on_meta(path, lambda: OpenSoraVAE(table))
    if vae.temporal_vae.stride != 4:
        raise UserError(f"{path}: vae_temporal: {vae.temporal_vae.stride} frames to a latent: only 4 are taken")
    check_stored(folder, vae, LAYOUT)
    return vae
