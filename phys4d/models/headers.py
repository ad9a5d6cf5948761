"""What files of weights say about themselves, read from their first bytes: valid, complete, names, shapes, dtypes.

The safetensors format: 8 bytes with the header's length n (little endian), n bytes of JSON that give each tensor's
dtype, shape and offsets, then the tensors, without gaps. So a file that was cut off, or that is something else, shows
without reading a weight.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from phys4d.engine import json_text
from phys4d.engine.errors import UserError
from phys4d.engine.limits import SAFETENSORS_HEADER_BYTES

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F32", "F16", "BF16")  # what weights are taken in; fp8 and integers need their quantiser's scales
_OTHER = "is it of this model?"
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".msgpack", ".h5")


class WeightsFault(UserError):
    """Weights that are absent, damaged or of another model; `brief` is the line without the advice."""

    def __init__(self, brief: str, advice: str = "download it again") -> None:
        super().__init__(f"{brief}: {advice}")
        self.brief = brief


class Stored(NamedTuple):
    """One tensor of a file: dtype by its safetensors name ("BF16"), shape, and where in the file its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Tensors by name, and the metadata, of a safetensors file that is whole. UserError naming the file otherwise."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            if start.startswith(b"version "):
                raise WeightsFault(f"{path}: is a git-lfs pointer, no weights", f"run `git lfs pull` in {path.parent}")
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(SAFETENSORS_HEADER_BYTES, size - 8):
                raise WeightsFault(f"{path}: is no safetensors file ({_begins(start, size)})")
            text = file.read(length)
    except OSError as error:
        raise WeightsFault(f"{path}: cannot be read ({error.strerror})", "copy or download the folder again") from None
    try:
        entries = json_text.loads(text, SAFETENSORS_HEADER_BYTES)
        metadata = entries.pop("__metadata__", {})
        tensors = {
            name: Stored(e["dtype"], tuple(e["shape"]), 8 + length + int(e["data_offsets"][0]))
            for name, e in entries.items()
        }
        ends = [_end(name, entry) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise WeightsFault(f"{path}: is no safetensors file (its header: {why})") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise WeightsFault(f"{path}: is {size} bytes long, its header says {expected}")
    return tensors, metadata


def read_weights(folder: Path, name: str, layout: str) -> tuple[dict[str, Stored], dict[str, Path]]:
    """All tensors of a folder that holds name.safetensors, or shards with name.safetensors.index.json, and the file
    that holds each. UserError where a file is absent, no safetensors, or incomplete; layout: what is expected."""
    index = folder / f"{name}.safetensors.index.json"
    if not index.exists():
        whole = folder / f"{name}.safetensors"
        if not whole.is_file():
            raise WeightsFault(f"{whole}: no such file", _instead(folder, layout))
        tensors, _ = read_header(whole)
        return tensors, dict.fromkeys(tensors, whole)
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise WeightsFault(f"{index}: weight_map: no table of tensors")
    tensors = {}
    files = {key: folder / str(shard) for key, shard in where.items()}
    for shard in sorted(set(files.values())):
        held, _ = read_header(shard)
        if absent := [key for key, path in files.items() if path == shard and key not in held]:
            raise WeightsFault(f"{shard}: holds no {absent[0]}, which {index.name} places there", "download both again")
        tensors |= {key: held[key] for key, path in files.items() if path == shard}
    return tensors, files


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds files of weights, of any format, or their index."""
    endings = (".safetensors", *_OTHER_FORMATS, ".index.json")
    return folder.is_dir() and any(path.name.endswith(endings) for path in folder.iterdir())


def check_fits(
    stored: Mapping[str, Stored], files: Mapping[str, Path], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """UserError unless every expected tensor is stored with that shape and in a dtype of `FLOATS`; files: where each
    tensor is stored; what: the name of what expects them, for the message."""
    for name, shape in expected.items():
        if name not in stored:
            raise WeightsFault(f"{_some(files)}: holds no {name}, which {what} has", _OTHER)
        dtype, got, _ = stored[name]
        if got != shape:
            raise WeightsFault(f"{files[name]}: {name} is {list(got)}, {what} takes {list(shape)}", _OTHER)
        if dtype not in FLOATS:
            kinds = ", ".join(FLOATS)
            raise WeightsFault(f"{files[name]}: {name} is {dtype}, taken are {kinds}", "take the unquantised folder")


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file, or UserError naming the file."""
    try:
        table = json_text.loads(json_text.read(path))
    except OSError as error:
        reason = f"{error.strerror}"
    except ValueError as error:
        reason = str(error).removeprefix("is ")
        if text_is_pointer(path):
            raise UserError(f"{path}: is a git-lfs pointer: run `git lfs pull` in {path.parent}") from None
    else:
        if isinstance(table, dict):
            return table
        reason = f"a table is expected, not {type(table).__name__}"
    raise UserError(f"{path}: cannot be read ({reason}): download it again")


def text_is_pointer(path: Path) -> bool:
    """Whether a file holds the three lines of a git-lfs pointer instead of its content."""
    with open(path, "rb") as file:
        return file.read(40).startswith(b"version https://git-lfs")


def _end(name: str, entry: dict[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    count = math.prod(entry["shape"])
    if entry["dtype"] in BYTES and end - begin != count * BYTES[entry["dtype"]]:
        raise ValueError(f"{name}: {end - begin} bytes for {entry['shape']} in {entry['dtype']}")
    return int(end)


def _begins(start: bytes, size: int) -> str:
    return f"it begins with {start!r}" if size else "it is empty"


def _instead(folder: Path, layout: str) -> str:
    """The advice for a folder without the expected file, by what it holds."""
    if not folder.is_dir():
        return layout
    there = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", *_OTHER_FORMATS))
    if not there:
        return f"{folder.name} holds no weights, download it again"
    return f"there is {there[0]}, but only safetensors of that name are taken: save the model with `save_pretrained`"


def _some(files: Mapping[str, Path]) -> Path:
    shards = sorted(set(files.values()))
    return shards[0] if len(shards) == 1 else shards[0].parent
