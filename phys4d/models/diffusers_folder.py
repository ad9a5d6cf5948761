"""Folders in the diffusers layout, looked at without reading weights: configurations, headers of files, tokenizers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phys4d.engine.errors import UserError
from phys4d.engine.limits import LAYERS, SETTING
from phys4d.models.headers import check_fits, read_json, read_weights, text_is_pointer

PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
WEIGHTS = "diffusion_pytorch_model"  # diffusers' name; transformers' is "model"


def given(kind: str, folder: Path | None) -> Path:
    """The folder that `init` names; UserError where a run of a kind without new models names none."""
    if folder is None:
        raise UserError(f'model.kind: "{kind}" without init: name the folder of the released model as init')
    return folder


def check_layout(folder: Path, layout: str, parts: tuple[str, ...] = PARTS) -> None:
    """UserError unless `folder` has the sub-folders `parts`; layout: what is expected, for the message."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "no such folder"
        raise UserError(f"{folder}: {what}: {layout}, a folder with {', '.join(parts)}")
    missing = [name for name in parts if not (folder / name).is_dir()]
    if missing:
        single = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".gguf", ".pth", ".bin"))
        holds = f", but {single[0]}, weights in one file" if single else ""
        raise UserError(f"{folder}: no {', '.join(missing)}{holds}: {layout}")


def read_config(path: Path, expected: str, taken: str) -> dict[str, Any]:
    """The table of the config.json at `path`, of the class `expected` and not quantised; taken: the published model,
    for the message."""
    config = read_json(path)
    if config.get("_class_name") != expected:
        got = config.get("_class_name", "none")
        raise UserError(f"{path}: _class_name: expected {expected}, got {got}: only {taken} is taken")
    check_unquantised(path, config)
    check_numbers(path, config)
    return config


def class_name(folder: Path) -> str | None:
    """The class that config.json of a folder names; None where it names none or cannot be read."""
    try:
        return read_json(folder / "config.json").get("_class_name")
    except UserError:
        return None


def check_unquantised(path: Path, config: dict[str, Any]) -> None:
    """UserError for a configuration of quantised weights."""
    if config.get("quantization_config"):
        raise UserError(f"{path}: quantization_config: quantised weights do not train: take the unquantised folder")


def check_numbers(path: Path, config: dict[str, Any]) -> None:
    """UserError for a whole number that no model has: it would build a million blocks, or tables of their size."""
    for key, value in config.items():
        most = LAYERS if "layers" in key or "blocks" in key else SETTING
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > most:
                raise UserError(f"{path}: {key}: {str(number)[:12]}, at most {most} is taken: download it again")


def weights_name(folder: Path) -> str:
    """Name of the files of weights in a folder: transformers' where only that is there, and else diffusers'."""
    names = [f"model.safetensors{end}" for end in ("", ".index.json")]
    others = [f"{WEIGHTS}.safetensors{end}" for end in ("", ".index.json")]
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return "model" if there.intersection(names) and not there.intersection(others) else WEIGHTS


def check_stored(folder: Path, module: nn.Module, layout: str) -> None:
    """UserError unless a folder stores every tensor of a module on the meta device, whole and with its shape."""
    what = f"{type(module).__name__} of its config.json"
    check_fits(*read_weights(folder, weights_name(folder), layout), shapes_of(module), what)


def t5_classes(family: str) -> tuple[Any, Any]:
    """transformers' configuration and encoder of a family of text encoders: "T5", with which their names begin."""
    import transformers

    return getattr(transformers, f"{family}Config"), getattr(transformers, f"{family}EncoderModel")


def check_text(folder: Path, family: str, width: int, layout: str, *, weights: bool = True) -> None:
    """UserError unless text_encoder/ and tokenizer/ of a folder are whole, and give tokens that a transformer takes.

    folder: of the model. family: as of `t5_classes`. width: of the tokens. layout: what is expected, for the message.
    weights: whether those of the text encoder must be there.
    """
    held = check_t5_encoder(folder / "text_encoder", family, layout, weights=weights)
    if held != width:
        raise UserError(
            f"{folder}: the text encoder gives tokens of {held} numbers, the transformer takes {width}: "
            "are they of one model?"
        )
    check_tokenizer(folder / "tokenizer", layout)


def check_t5_encoder(folder: Path, family: str, layout: str, *, weights: bool = True) -> int:
    """Width of a token of the text encoder in a folder; UserError unless it is a whole one of this family.

    folder: of the encoder. family: as of `t5_classes`. layout: what is expected, for the message. weights: whether they
    must be there.
    """
    config, encoder = t5_classes(family)
    path = folder / "config.json"
    table = read_json(path)
    names = table.get("architectures") or [table.get("model_type")]
    name = encoder.__name__
    if name not in names:
        raise UserError(f"{path}: architectures: expected {name}, got {', '.join(map(str, names))}")
    check_unquantised(path, table)
    check_numbers(path, table)
    module = on_meta(path, lambda: encoder(config.from_dict(table)))
    if not weights:
        return module.config.d_model
    (stored, files), shapes = read_weights(folder, "model", layout), shapes_of(module)
    tied = ("shared.weight", "encoder.embed_tokens.weight")  # one tensor under two names: either is enough
    if any(name in stored for name in tied):
        shapes = {name: shape for name, shape in shapes.items() if name in stored or name not in tied}
    check_fits(stored, files, shapes, f"{name} of its config.json")
    return module.config.d_model


def check_tokenizer(folder: Path, layout: str) -> None:
    """UserError unless the files that AutoTokenizer needs are there, and are no pointers to them."""
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{folder / 'tokenizer_config.json'}: no such file: {layout}")
    words = [folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()]
    if not words:
        raise UserError(f"{folder / 'tokenizer.json'}: no such file, and no spiece.model: {layout}")
    for path in (*words, folder / "tokenizer_config.json"):
        if text_is_pointer(path):
            raise UserError(f"{path}: is a git-lfs pointer: run `git lfs pull` in {folder}")


def on_meta(path: Path, build: Callable[[], Any]) -> Any:
    """What `build` returns, without memory for its weights; UserError where the configuration at `path` builds none."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return build()
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, AssertionError, LookupError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: builds no model ({why}): download it again") from None


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that a module stores, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
