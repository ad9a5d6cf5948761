"""Validation of a clip's json: the fields with a fixed type, and the message for a field with another type."""

import json
import math
from typing import Any

import numpy as np

_MATRICES = {"intrinsics": 3, "camera_to_world": 4}  # [frames, n, n]
_NUMBERS = ("fps", "frames", "height", "width")
_TEXTS = ("caption", "category", "family")


def parse(data: bytes, frames: int) -> dict[str, Any]:
    """The parsed json of a clip of `frames` frames.

    Fields that are present must have the right type: caption, category and family are text; intrinsics and
        camera_to_world are finite numbers [frames, 3, 3] and [frames, 4, 4]; fps, frames, height and width are positive
        numbers; provenance is an object. A text may be empty, of any length, in any script and with control characters;
        half of a surrogate pair is refused, since it has no UTF-8 form.

    data: UTF-8 JSON.
    frames: number of frames of the clip.

    Raises ValueError that names the field.
    """
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"is {_kind(meta)}, expected an object")
    for name, value in meta.items():
        if fault := _fault(name, value, frames):
            raise ValueError(f"{name}: {fault}")
    return meta


def _fault(name: str, value: Any, frames: int) -> str | None:
    if name in _TEXTS:
        return _text_fault(value)
    if name in _MATRICES:
        return _matrices_fault(value, frames, _MATRICES[name])
    if name in _NUMBERS and not (_is_number(value) and 0 < value < math.inf):
        return f"expected a positive number, got {_kind(value)}"
    if name == "provenance" and not isinstance(value, dict):
        return f"expected an object, got {_kind(value)}"
    return None


def _text_fault(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"expected text, got {_kind(value)}"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start} is half of a surrogate pair"
    return None


def _matrices_fault(value: Any, frames: int, n: int) -> str | None:
    expected = f"expected finite numbers [{frames}, {n}, {n}]"
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return f"{expected}, got lists of other lengths"
    if array.dtype.kind not in "iuf":
        return f"{expected}, got something else in it" if array.ndim else f"{expected}, got {_kind(value)}"
    if array.shape != (frames, n, n):
        return f"{expected}, got {list(array.shape)}"
    return None if np.isfinite(array).all() else f"{expected}, got one that is not finite"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "text"
    return str(value)[:20] if _is_number(value) else "a list" if isinstance(value, list) else "an object"
