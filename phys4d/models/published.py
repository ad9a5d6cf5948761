"""What a released folder holds, looked at without reading weights: classes, configurations, headers, the scheduler."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from phys4d.engine.errors import UserError
from phys4d.models.headers import check_fits, read_json, read_weights, text_is_pointer
from phys4d.models.sampling import published_shift

PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
LAYOUT = "expected the diffusers layout of Wan2.2-TI2V-5B"
WEIGHTS = "diffusion_pytorch_model"  # diffusers' name; transformers' is "model"


@dataclass(frozen=True)
class Published:
    """A released folder's transformer and autoencoder on torch's meta device, and the shift of its scheduler."""

    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    shift: float


def token_stride(folder: Path) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels under one token of a released folder that `check_released` has passed."""
    transformer, vae = (read_json(folder / part / "config.json") for part in ("transformer", "vae"))
    t, h, w = transformer.get("patch_size", (1, 2, 2))
    temporal, spatial = vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)
    return temporal * t, spatial * h, spatial * w


def check_released(folder: Path) -> Published:
    """UserError, one line, unless `folder` is a whole model of the kind of Wan2.2-TI2V-5B in diffusers' layout.

    Looked at are class names, configurations, that every tensor they ask for is stored whole with its shape, and the
    tokenizer's files.
    """
    _check_layout(folder)
    _check_index(folder / "model_index.json")
    transformer = check_transformer(folder / "transformer")
    vae = _check_vae(folder / "vae")
    channels = (transformer.config.in_channels, transformer.config.out_channels, vae.config.z_dim)
    if len(set(channels)) > 1:
        raise UserError(
            f"{folder}: the transformer takes {channels[0]} channels and gives {channels[1]}, the vae has "
            f"{channels[2]}: only text-to-video models with the first frame in the latents (Wan2.2-TI2V) are taken"
        )
    width = _check_text_encoder(folder / "text_encoder")
    if width != transformer.config.text_dim:
        raise UserError(
            f"{folder}: the text encoder gives tokens of {width} numbers, the transformer takes "
            f"{transformer.config.text_dim}: are they of one model?"
        )
    _check_tokenizer(folder / "tokenizer")
    return Published(transformer, vae, published_shift(folder))


def _check_layout(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "no such folder"
        raise UserError(f"{folder}: {what}: {LAYOUT}, a folder with {', '.join(PARTS)}")
    missing = [name for name in PARTS if not (folder / name).is_dir()]
    if missing:
        single = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".gguf", ".pth", ".bin"))
        holds = f", but {single[0]}, weights in one file" if single else ""
        raise UserError(f"{folder}: no {', '.join(missing)}{holds}: {LAYOUT}")


def _check_index(path: Path) -> None:
    """What model_index.json says of the pipeline: one expert, and one timestep per token."""
    experts = "two experts (Wan2.2-A14B): only models of one transformer, such as Wan2.2-TI2V-5B, are taken"
    if (path.parent / "transformer_2").is_dir():
        raise UserError(f"{path.parent / 'transformer_2'}: {experts}")
    if not path.is_file():
        return
    index = read_json(path)
    name = index.get("_class_name")
    if name not in ("WanPipeline", "WanImageToVideoPipeline"):
        raise UserError(f"{path}: _class_name: expected WanPipeline, got {name}: only Wan2.2-TI2V is taken")
    if index.get("boundary_ratio") is not None or any(index.get("transformer_2") or ()):
        raise UserError(f"{path}: {experts}")
    if index.get("expand_timesteps") is not True:
        raise UserError(
            f"{path}: expand_timesteps: {index.get('expand_timesteps', 'absent')}: only models with one timestep per "
            "token (Wan2.2-TI2V) are taken, Wan2.1's have one per clip"
        )


def check_transformer(folder: Path) -> WanTransformer3DModel:
    """The WanTransformer3DModel of a folder on the meta device, or UserError where it or its weights are not whole."""
    path = folder / "config.json"
    config = _config(path, "WanTransformer3DModel")
    patch = config.get("patch_size", [1, 2, 2])
    if not isinstance(patch, list) or len(patch) != 3 or not all(isinstance(n, int) and n > 0 for n in patch):
        raise UserError(f"{path}: patch_size: expected frames, rows and columns, such as [1, 2, 2], got {patch}")
    for key in ("image_dim", "added_kv_proj_dim"):
        if config.get(key) is not None:
            raise UserError(f"{path}: {key}: {config[key]}: models that read an image beside the text are not taken")
    transformer = on_meta(path, lambda: WanTransformer3DModel.from_config(config))
    check_fits(*read_weights(folder, WEIGHTS), shapes_of(transformer), "WanTransformer3DModel of its config.json")
    return transformer


def _check_vae(folder: Path) -> AutoencoderKLWan:
    path = folder / "config.json"
    config = _config(path, "AutoencoderKLWan")
    vae = on_meta(path, lambda: AutoencoderKLWan.from_config(config))
    for key in ("latents_mean", "latents_std"):
        if len(vae.config[key]) != vae.config.z_dim:
            raise UserError(f"{path}: {key}: {len(vae.config[key])} numbers for {vae.config.z_dim} channels (z_dim)")
    check_fits(*read_weights(folder, WEIGHTS), shapes_of(vae), "AutoencoderKLWan of its config.json")
    return vae


def _check_text_encoder(folder: Path) -> int:
    """Width of a token; UserError unless the folder holds a UMT5EncoderModel that is whole."""
    from transformers import UMT5Config, UMT5EncoderModel

    path = folder / "config.json"
    config = read_json(path)
    names = config.get("architectures") or [config.get("model_type")]
    if "UMT5EncoderModel" not in names:
        raise UserError(f"{path}: architectures: expected UMT5EncoderModel, got {', '.join(map(str, names))}")
    _check_unquantised(path, config)
    encoder = on_meta(path, lambda: UMT5EncoderModel(UMT5Config.from_dict(config)))
    (stored, files), shapes = read_weights(folder, "model"), shapes_of(encoder)
    tied = ("shared.weight", "encoder.embed_tokens.weight")  # one tensor under two names: either is enough
    if any(name in stored for name in tied):
        shapes = {name: shape for name, shape in shapes.items() if name in stored or name not in tied}
    check_fits(stored, files, shapes, "UMT5EncoderModel of its config.json")
    return encoder.config.d_model


def _check_tokenizer(folder: Path) -> None:
    """UserError unless the files that AutoTokenizer needs are there, and are no pointers to them."""
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{folder / 'tokenizer_config.json'}: no such file: {LAYOUT}")
    words = [folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()]
    if not words:
        raise UserError(f"{folder / 'tokenizer.json'}: no such file, and no spiece.model: {LAYOUT}")
    for path in (*words, folder / "tokenizer_config.json"):
        if text_is_pointer(path):
            raise UserError(f"{path}: is a git-lfs pointer: run `git lfs pull` in {folder}")


def _config(path: Path, expected: str) -> dict[str, Any]:
    """A config.json of this class that is not quantised."""
    config = read_json(path)
    if config.get("_class_name") != expected:
        got = config.get("_class_name", "none")
        raise UserError(f"{path}: _class_name: expected {expected}, got {got}: only Wan2.2-TI2V is taken")
    _check_unquantised(path, config)
    return config


def _check_unquantised(path: Path, config: dict[str, Any]) -> None:
    if config.get("quantization_config"):
        raise UserError(f"{path}: quantization_config: quantised weights do not train: take the unquantised folder")


def on_meta(path: Path, build: Callable[[], Any]) -> Any:
    """What `build` returns, without memory for its weights; UserError where the configuration at `path` builds none."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return build()
    except (TypeError, ValueError, RuntimeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: builds no model ({' '.join(str(error).split())}): download it again") from None


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that a module stores, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
