"""What a released folder holds, looked at without reading weights: classes, configurations, headers, the scheduler."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from phys4d.engine.errors import UserError
from phys4d.models.cogvideox.codec import FRAMES
from phys4d.models.cogvideox.process import BETAS, SNR_SHIFT, TIMESTEPS
from phys4d.models.diffusers_folder import (
    check_layout,
    check_stored,
    check_text,
    on_meta,
    read_config,
)
from phys4d.models.headers import read_json
from phys4d.models.interface import check_size

TAKEN = "CogVideoX-5B or CogVideoX-5B-I2V"
LAYOUT = f"expected the diffusers layout of {TAKEN}"
STEPS = 50  # of diffusers' CogVideoXPipeline where nothing is asked for
GUIDANCE = 6.0  # likewise
SIZE = (49, 480, 720)  # frames, height and width of the clips that it was published with
_PIPELINES = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline")
_SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
_WANTED = {  # of the scheduler, with the value of a key that is left out
    "num_train_timesteps": (TIMESTEPS, 1000), "beta_schedule": ("scaled_linear", "scaled_linear"),
    "trained_betas": (None, None), "prediction_type": ("v_prediction", "epsilon"),
    "rescale_betas_zero_snr": (True, False), "timestep_spacing": ("trailing", "leading"),
    "set_alpha_to_one": (True, True),
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A released folder's transformer and autoencoder on torch's meta device, and the table of its scheduler."""

    transformer: CogVideoXTransformer3DModel
    vae: AutoencoderKLCogVideoX
    snr_shift: float
    betas: tuple[float, float]


def check_released(folder: Path, *, text_weights: bool = True) -> Published:
    """UserError, one line, unless `folder` is a whole model of the kind of CogVideoX-5B in diffusers' layout.

    Looked at are class names, configurations, that every tensor they ask for is stored whole with its shape, the noise
    levels of the scheduler, and the tokenizer's files. text_weights: whether the text encoder's weights must be there.
    """
    check_layout(folder, LAYOUT)
    if (index := folder / "model_index.json").is_file() and read_json(index).get("_class_name") not in _PIPELINES:
        raise UserError(f"{index}: _class_name: {read_json(index).get('_class_name')}: only {TAKEN} is taken")
    transformer = check_transformer(folder / "transformer")
    vae = _check_vae(folder / "vae")
    given, channels = transformer.config.out_channels, vae.config.latent_channels
    if given != channels:
        raise UserError(f"{folder}: the transformer gives {given} channels, the vae {channels}: are they of one model?")
    check_text(folder, "T5", transformer.config.text_embed_dim, LAYOUT, weights=text_weights)
    return Published(transformer, vae, *published_noise(folder))


def check_transformer(folder: Path) -> CogVideoXTransformer3DModel:
    """The CogVideoXTransformer3DModel of a folder on the meta device, or UserError where it or its weights are not
    whole."""
    path = folder / "config.json"
    config = read_config(path, "CogVideoXTransformer3DModel", TAKEN)
    for key in ("patch_size_t", "ofs_embed_dim"):
        if config.get(key) is not None:
            raise UserError(f"{path}: {key}: {config[key]}: CogVideoX1.5 is not taken, only {TAKEN}")
    transformer = on_meta(path, lambda: CogVideoXTransformer3DModel.from_config(config))
    read, given = transformer.config.in_channels, transformer.config.out_channels
    if read not in (given, 2 * given):
        raise UserError(f"{path}: in_channels: {read}: expected {given}, or {2 * given} of a model that reads an image")
    check_stored(folder, transformer, LAYOUT)
    return transformer


def _check_vae(folder: Path) -> AutoencoderKLCogVideoX:
    path = folder / "config.json"
    config = read_config(path, "AutoencoderKLCogVideoX", TAKEN)
    vae = on_meta(path, lambda: AutoencoderKLCogVideoX.from_config(config))
    if vae.config.temporal_compression_ratio != 4:
        raise UserError(f"{path}: temporal_compression_ratio: {vae.config.temporal_compression_ratio}: only 4 is taken")
    check_stored(folder, vae, LAYOUT)
    return vae


def published_noise(folder: Path) -> tuple[float, tuple[float, float]]:
    """SNR shift and betas of the scheduler of a folder; those of CogVideoX-5B for a folder without scheduler/.

    The solver is not taken over. UserError for noise levels of another kind.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.parent.exists():
        return SNR_SHIFT, BETAS
    config = read_json(path)
    if (name := config.get("_class_name")) not in _SCHEDULERS:
        raise UserError(f"{path}: _class_name: {name!r}: expected {' or '.join(_SCHEDULERS)}")
    for key, (wanted, absent) in _WANTED.items():
        if (got := config.get(key, absent)) != wanted:
            raise UserError(f"{path}: {key}: {got!r}: only {wanted!r} is taken, with which {TAKEN} was trained")
    shift = config.get("snr_shift_scale", 3.0)
    betas = config.get("beta_start", BETAS[0]), config.get("beta_end", BETAS[1])
    for key, number in (("snr_shift_scale", shift), ("beta_start", betas[0]), ("beta_end", betas[1])):
        if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
            raise UserError(f"{path}: {key}: {number!r}: expected a number above 0")
    return float(shift), (float(betas[0]), float(betas[1]))


def token_stride(transformer: dict[str, Any], vae: dict[str, Any]) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels under one token, from two whole configurations."""
    side = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    return int(vae["temporal_compression_ratio"]), side, side


def check_clip_size(rows: int | None, columns: int | None, size: tuple[int, int, int]) -> None:
    """ValueError unless clips of `size` have 1 + 8k frames and, where given, so many rows and columns of pixels."""
    check_size(size, (FRAMES, 1, 1))
    if rows is not None and size[1:] != (rows, columns):
        raise ValueError(f"{size[1]}x{size[2]} pixels: this model has learned positions for {rows}x{columns} alone")


def size_check(transformer: dict[str, Any], vae: dict[str, Any]) -> Any:
    """`check_clip_size` of a model with these configurations, of which I2V has positions for one size."""
    space = 2 ** (len(vae["block_out_channels"]) - 1)
    learned = transformer["use_learned_positional_embeddings"]
    sides = (space * transformer["sample_height"], space * transformer["sample_width"]) if learned else (None, None)
    return partial(check_clip_size, *sides)
