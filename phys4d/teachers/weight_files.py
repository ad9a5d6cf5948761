"""Weights of teachers from local files: tensors by name, never objects, and one line where they do not fit."""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from phys4d.engine.errors import UserError

SAFETENSORS, PICKLED = (".safetensors",), (".pth", ".pt")


def conversion(file: Path) -> str:
    """A shell command that makes a safetensors file of a .pth file; it unpickles nothing but tensors.

    file: the .pth file.
    """
    return (
        "python -c \"import torch, safetensors.torch as s; "
        f"w = torch.load('{file}', map_location='cpu', weights_only=True); "
        f"s.save_file({{k: v.clone() for k, v in w.items()}}, '{file.with_suffix('.safetensors')}')\""
    )


def check_file(file: Path, endings: Sequence[str], key: str, expected: str) -> None:
    """UserError unless a file of weights is there, with one of these endings.

    file: the file. endings: of `SAFETENSORS` and `PICKLED`. key: of the configuration that names it. expected: what it
    should be, for messages.
    """
    if file.suffix in PICKLED and file.suffix not in endings and file.is_file():
        raise UserError(f"{file}: is no safetensors file: convert it: {conversion(file)}")
    if file.suffix not in endings:
        raise UserError(f"{file}: {key} names a {' or '.join(endings)} file: {expected}")
    if not file.is_file():
        raise UserError(f"{file}: no such file: put there {expected}")


def read_tensors(file: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; of a pickled one nothing but tensors is unpickled.

    file: .safetensors, .pth or .pt. expected: what the file should be, for messages.

    Raises UserError where it does not load or holds anything else.
    """
    try:
        if file.suffix in SAFETENSORS:
            return safetensors.torch.load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{file}: does not load ({reason}): download it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{file}: holds more than tensors by name: take {expected}")
    return tensors


def fill(model: nn.Module, tensors: Mapping[str, Tensor], file: Path, title: str, expected: str) -> None:
    """Gives a model its weights.

    model: takes exactly these tensors. tensors: of the file, by name. title: of the model. expected: what the file
    should be, for messages.

    Raises UserError that names the first tensor that is absent, has another shape or is not of the model.
    """
    own = model.state_dict()
    reason = next((f"has no {name}" for name in own if name not in tensors), None)
    reason = reason or next((f"{name} is not of it" for name in tensors if name not in own), None)
    for name, tensor in own.items() if reason is None else ():
        if tensors[name].shape != tensor.shape:
            reason = f"{name} has shape {[*tensors[name].shape]}, not {[*tensor.shape]}"
            break
    if reason is not None:
        raise UserError(f"{file}: holds no weights of {title} ({reason}): take {expected}")
    model.load_state_dict(tensors)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
