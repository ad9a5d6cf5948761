"""Reads one file of one frame: pictures, distances, vectors, segmentation. Nothing is unpickled."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from phys4d.engine.errors import UserError

NO_INSTANCE = ("BACKGROUND", "UNLABELLED", "INVALID")


def read_picture(path: Path) -> np.ndarray:
    """RGB uint8 [H, W, 3]. Alpha is dropped; of 16 bits the upper eight are kept; grey is repeated to three channels.

    Raises UserError if the file cannot be read as a picture.
    """
    image = _open(path)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"{path}: pixels of mode {image.mode}: expected colours of 8 or 16 bits: write rgb as png")
    return np.asarray(image.convert("RGB"))


def read_array(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """float64 [H, W, channels], the first channels of a .npy file of floats [H, W] or [H, W, C].

    path: the file.
    size: (H, W) of the picture.
    channels: number of channels to return.

    Raises UserError if the file is not such an array or has another size.
    """
    array = _load(path)
    if not np.issubdtype(array.dtype, np.floating) or array.ndim not in (2, 3):
        raise UserError(f"{path}: {array.dtype}{list(array.shape)}: expected float32 of height x width: write it again")
    _check_size(path, array.shape[:2], size)
    array = array.reshape(*size, -1)
    if array.shape[2] < channels:
        raise UserError(f"{path}: {array.shape[2]} channels: expected {channels} or more: write it again")
    return array[..., :channels].astype(np.float64)


def read_segmentation(path: Path, mapping: Path, size: tuple[int, int]) -> tuple[np.ndarray, dict[int, str]]:
    """Codes int64 [H, W] and the label of each labelled code.

    The png of BasicWriter contains a colour (RGBA) or a number for each instance; the mapping file next to it gives the
    prim of each: {"(140, 25, 255, 255)": "/World/Cube"} or {"2": "/World/Cube"}. Background and unlabelled codes are
    omitted. Numbers and colours may differ from frame to frame, labels do not.

    path: png or npy file.
    mapping: json file with the labels.
    size: (H, W) of the picture.

    Raises UserError if a file cannot be read or has another size.
    """
    array = _load(path) if path.suffix == ".npy" else np.asarray(_open(path))
    if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (2, 3):
        raise UserError(f"{path}: {array.dtype}{list(array.shape)}: expected whole numbers or colours: write it again")
    _check_size(path, array.shape[:2], size)
    array = array.reshape(*size, -1)
    labels: dict[int, str] = {}
    for key, label in read_json(mapping).items():
        if str(label).upper() not in NO_INSTANCE:
            labels[_code(mapping, key, array.shape[2])] = str(label)
    return _codes(array), labels


def read_json(path: Path) -> dict[str, Any]:
    """The object in a .json file. Raises UserError if the file does not contain one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}: expected an object with keys: write it again")
    return value


def _codes(array: np.ndarray) -> np.ndarray:
    """One integer for each colour; numbers are unchanged."""
    code = np.zeros(array.shape[:2], dtype=np.int64)
    for channel in range(array.shape[2]):
        code = (code << 8) + array[..., channel].astype(np.int64)
    return code


def _code(path: Path, key: str, channels: int) -> int:
    """The code of a mapping's key, such as "5" or "(140, 25, 255, 255)"."""
    try:
        numbers = np.asarray(ast.literal_eval(key), dtype=np.int64).ravel()
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError):
        numbers = np.zeros(0, dtype=np.int64)
    if len(numbers) != channels:
        kind = "a number" if channels == 1 else f"a colour of {channels} numbers"
        raise UserError(f"{path}: key {key[:40]!r}: expected {kind}, as in the picture beside it: write both again")
    return int(_codes(numbers[None, None])[0, 0])


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None
    return image


def _load(path: Path) -> np.ndarray:
    """A .npy file as a memory map, so that a forged header cannot request more memory than the file has bytes."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: is an archive of arrays: expected one array as numpy.save writes it")
    return array


def _unreadable(path: Path, error: Exception) -> UserError:
    what = str(error).replace(str(path), path.name).splitlines() or [type(error).__name__]
    return UserError(f"{path}: cannot be read ({what[0]}): write it again")


def _check_size(path: Path, found: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(found) != expected:
        raise UserError(
            f"{path}: {found[0]}x{found[1]} (height x width) beside pictures of {expected[0]}x{expected[1]}: "
            "all files of a clip have one size"
        )
