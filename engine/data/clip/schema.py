"""What a clip contains: one table of its arrays and one of its json. Writers, readers, `verify` and preflight use it.

T, H, W are the clip's frames, height and width in the index.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.engine.data.clip import extras
from phys4d.engine.limits import ARRAY_BYTES_PER_PIXEL, ARRAY_BYTES_SPARE

Size = tuple[int, int, int]
"""(frames, height, width) of a clip."""

REQUIRED = ("caption", "intrinsics")
"""Fields that every clip's json must have."""

METRIC, AFFINE = DEPTH_KINDS = ("metric", "affine_disparity")
"""Kinds of `depth`: metres along the optical axis, of a clip that does not state another kind; or disparity, 1 / metres
up to one positive scale and one shift for the clip, of which no metres follow."""

FOCAL = (1e-3, 1e7)
"""Focal lengths in pixels."""
FAR = 1e7
"""Largest absolute value of a principal point in pixels, and of a camera's position in metres."""
RIGID = 1e-3
"""Largest difference between R^T R and the identity."""


@dataclass(frozen=True)
class ArrayRule:
    """An array of a clip. dtype: after decoding. frames: T or T - 1, as a difference to T. channels: length of a first
    axis, 0 for none. finite: whether the values must be finite."""

    dtype: str
    frames: int = 0
    channels: int = 0
    finite: bool = False

    def shape(self, size: Size) -> tuple[int, ...]:
        """The shape in a clip of this size."""
        return (*((self.channels,) if self.channels else ()), size[0] + self.frames, *size[1:])


ARRAYS: Mapping[str, ArrayRule] = {
    "depth": ArrayRule("float32", finite=True),  # of its kind (`DEPTH_KINDS`); >= 0, in metres > 0 where depth_valid
    "motion": ArrayRule("float32", frames=-1, channels=3, finite=True),  # (du px, dv px, dz m) from t to t + 1
    "depth_valid": ArrayRule("bool"),
    "flow_valid": ArrayRule("bool", frames=-1),
    "dz_valid": ArrayRule("bool", frames=-1),
    "visible": ArrayRule("bool", frames=-1),
    "moving": ArrayRule("bool", frames=-1),
    "instance": ArrayRule("uint8"),
    "opacity": ArrayRule("uint8"),
}
"""Those of `extras.EXTRAS` have rules, too; other names may have any dtype and shape, within `engine.limits`."""


def check_clip(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], size: Size) -> None:
    """Checks a clip before it is written. Raises ValueError that names the array or field.

    arrays: before encoding; {} for a clip without truth.
    meta: the content of its json.
    size: (frames, height, width).
    """
    described = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()}
    check_header(described, size)
    check_values(arrays, ())
    check_meta(meta, size, REQUIRED)
    check_depth(arrays, meta)


def check_header(entries: Mapping[str, Mapping[str, Any]], size: Size) -> None:
    """Checks names, dtypes and shapes before anything is unpacked. Raises ValueError that names the array.

    entries: the header of the clip's blob (`blob.header`).
    size: (frames, height, width) in the index.
    """
    total = 0
    extras.check_shapes(entries, size)
    for name, entry in entries.items():
        shape = tuple(entry["shape"])
        dtype = "float32" if entry.get("quantisation") else entry["dtype"]
        total += math.prod(shape) * np.dtype(dtype).itemsize
        if (rule := ARRAYS.get(name)) is None:
            continue
        if shape != (expected := rule.shape(size)):
            raise ValueError(f"array {name!r}: shape {list(shape)}, expected {list(expected)}")
        if dtype != rule.dtype:
            raise ValueError(f"array {name!r}: dtype {dtype}, expected {rule.dtype}")
    if total > (most := ARRAY_BYTES_PER_PIXEL * math.prod(size) + ARRAY_BYTES_SPARE):
        raise ValueError(f"unpacks to {total} bytes, at most {most} are read of a clip of this size")


def check_values(arrays: Mapping[str, np.ndarray], finite: Collection[str]) -> None:
    """Checks the values of arrays whose dtypes and shapes are right. Raises ValueError that names the array.

    arrays: some or all arrays of a clip.
    finite: names of those that are known to be finite.
    """
    extras.check_contents(arrays, finite)
    for name, array in arrays.items():
        if name in ARRAYS and ARRAYS[name].finite and name not in finite:
            # One pass each, without a temporary array: NaN and infinity show in the smallest or largest value.
            low, high = array.min(initial=0), array.max(initial=0)
            if not (math.isfinite(low) and math.isfinite(high)):
                count = np.count_nonzero(~np.isfinite(array))
                raise ValueError(f"array {name!r}: {count} values are not finite")


def depth_kind(meta: Mapping[str, Any]) -> str:
    """One of `DEPTH_KINDS`, from the checked json of a clip."""
    return meta.get("depth_kind", METRIC)


def check_depth(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], sign: int = -1) -> None:
    """Checks depth, and motion in depth, by the kind that the json states. Raises ValueError that names the array.

    arrays: some or all arrays of a clip, with checked dtypes and shapes.
    meta: its checked json.
    sign: what is known of the smallest depth (`quantisation.least_sign`): 1 above 0, 0 not below, -1 nothing.
    """
    metric = depth_kind(meta) == METRIC
    if not metric and "dz_valid" in arrays and (count := np.count_nonzero(arrays["dz_valid"])):
        raise ValueError(f"array 'dz_valid': {count} pixels are valid, but of {AFFINE} no dz in metres follows")
    if (depth := arrays.get("depth")) is None:
        return
    if sign < 0:
        lowest, unit = depth.min(initial=math.inf), " m" if metric else ""
        if lowest < 0:
            count = np.count_nonzero(depth < 0)
            raise ValueError(f"array 'depth': {count} values are negative, the lowest {lowest:.4g}{unit}")
        sign = int(lowest > 0)
    if not metric or sign > 0 or (valid := arrays.get("depth_valid")) is None:
        return
    for t, (frame, seen) in enumerate(zip(depth, valid, strict=True)):  # by frame: that stays in the processor's cache
        if (count := np.count_nonzero((frame == 0) & seen)) > 0:
            raise ValueError(f"array 'depth': {count} pixels of frame {t} are 0 m, but valid in 'depth_valid'")


def check_meta(meta: Any, size: Size, required: Collection[str] = ()) -> None:
    """Checks the parsed json of a clip. Raises ValueError that names the field.

    meta: any value that JSON can hold.
    size: (frames, height, width) in the index.
    required: fields that must be there; those of `FIELDS` that are there must be right.
    """
    if not isinstance(meta, dict):
        raise ValueError(f"is {_kind(meta)}, expected an object")
    for name, check in FIELDS.items():
        if name in meta and (fault := check(meta[name], size)):
            raise ValueError(f"{name}: {fault}")
    if missing := [name for name in required if name not in meta]:
        raise ValueError(f"has no {', '.join(missing)}")


def _text_fault(value: Any, size: Size) -> str | None:
    if not isinstance(value, str):
        return f"expected text, got {_kind(value)}"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start} is half of a surrogate pair"
    return None


def _depth_kind_fault(value: Any, size: Size) -> str | None:
    return None if value in DEPTH_KINDS else f"expected {' or '.join(DEPTH_KINDS)}, got {value!r:.40}"


def _at_rest(value: Any, frames: int, n: int) -> list[list[float]] | None:
    """The matrix that all frames have, if they have one of n x n finite numbers; numpy would take most of a check's
    time for it.
    """
    if not (isinstance(value, list) and len(value) == frames and value.count(value[0]) == frames):
        return None
    matrix = value[0]
    if not (isinstance(matrix, list) and len(matrix) == n and all(isinstance(r, list) and len(r) == n for r in matrix)):
        return None
    numbers = [number for row in matrix for number in row]
    return matrix if {*map(type, numbers)} <= {int, float} and all(map(FAR.__ge__, map(abs, numbers))) else None


def _intrinsics_fault(value: Any, size: Size) -> str | None:
    if (one := _at_rest(value, size[0], 3)) is not None:
        focal_lengths = min(one[0][0], one[1][1]), max(one[0][0], one[1][1])
        if FOCAL[0] <= focal_lengths[0] and focal_lengths[1] <= FOCAL[1] and one[1][0] == 0 and one[2] == [0, 0, 1]:
            return None
    matrices, fault = _matrices(value, size[0], 3)
    if matrices is None:
        return fault
    focal = matrices[:, [0, 1], [0, 1]]
    if not ((focal >= FOCAL[0]) & (focal <= FOCAL[1])).all():
        return f"expected focal lengths of {FOCAL[0]:g} to {FOCAL[1]:g} px, got {_worst(focal, FOCAL[0]):g}"
    if (np.abs(matrices[:, :2]) > FAR).any():
        return f"expected numbers of at most {FAR:g} px"
    if (matrices[:, 1, 0] != 0).any() or (matrices[:, 2] != (0, 0, 1)).any():
        return "expected matrices [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
    return None


def _poses_fault(value: Any, size: Size) -> str | None:
    if (one := _at_rest(value, size[0], 4)) is not None and one[3] == [0, 0, 0, 1] and _is_rotation(one):
        return None
    matrices, fault = _matrices(value, size[0], 4)
    if matrices is None:
        return fault
    if (np.abs(matrices) > FAR).any():
        return f"expected positions of at most {FAR:g} m"
    if (matrices[:, 3] != (0, 0, 0, 1)).any():
        return "expected the last row 0 0 0 1"
    rotation = matrices[:, :3, :3]
    apart = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(initial=0)
    if apart > RIGID or (np.linalg.det(rotation) < 0).any():
        return f"expected rotations, got a matrix that scales, shears or mirrors (R^T R is off by {apart:.2g})"
    return None


def _is_rotation(matrix: list[list[float]]) -> bool:
    """Whether the upper left 3 x 3 numbers are a rotation within `RIGID`."""
    (a, b, c, _), (d, e, f, _), (g, h, i, _), _ = matrix
    lengths = a * a + d * d + g * g - 1, b * b + e * e + h * h - 1, c * c + f * f + i * i - 1
    angles = a * b + d * e + g * h, a * c + d * f + g * i, b * c + e * f + h * i
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return determinant > 0 and max(map(abs, lengths + angles)) <= RIGID


def _matrices(value: Any, frames: int, n: int) -> tuple[np.ndarray | None, str]:
    """float64 [frames, n, n], or None and the fault."""
    expected = f"expected finite numbers [{frames}, {n}, {n}]"
    try:
        array = np.asarray(value)
    except (ValueError, RecursionError):  # lists of different lengths, or too deep
        return None, f"{expected}, got lists of other lengths"
    if array.dtype.kind not in "iuf":
        return None, f"{expected}, got something else in it" if array.ndim else f"{expected}, got {_kind(value)}"
    if array.shape != (frames, n, n):
        return None, f"{expected}, got {list(array.shape)}"
    if not np.isfinite(array).all():
        return None, f"{expected}, got one that is not finite"
    return array.astype(np.float64), ""


def _count_fault(axis: int) -> Callable[[Any, Size], str | None]:
    def fault(value: Any, size: Size) -> str | None:
        if (what := _positive_fault(value, size)) is not None:
            return what
        return None if value == size[axis] else f"is {_kind(value)}, the index says {size[axis]}"

    return fault


def _positive_fault(value: Any, size: Size) -> str | None:
    if _is_number(value) and 0 < value < 1e6:
        return None
    return f"expected a positive number, got {_kind(value)}"


def _object_fault(value: Any, size: Size) -> str | None:
    return None if isinstance(value, dict) else f"expected an object, got {_kind(value)}"


FIELDS: Mapping[str, Callable[[Any, Size], str | None]] = {
    "caption": _text_fault,
    "category": _text_fault,
    "family": _text_fault,
    "depth_kind": _depth_kind_fault,
    "intrinsics": _intrinsics_fault,  # [T, 3, 3], pixels
    "camera_to_world": _poses_fault,  # [T, 4, 4], metres
    "fps": _positive_fault,
    "frames": _count_fault(0),
    "height": _count_fault(1),
    "width": _count_fault(2),
    "provenance": _object_fault,
}
"""Fields with a rule, each with the function that returns what is wrong with a value; other fields are not checked."""


def _worst(values: np.ndarray, least: float) -> float:
    return float(values.min() if values.min() < least else values.max())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "text"
    return f"{value:g}"[:20] if _is_number(value) else "a list" if isinstance(value, list) else "an object"
