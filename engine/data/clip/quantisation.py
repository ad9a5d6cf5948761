"""Float arrays as 16- or 32-bit codes within a stated largest error, and the rules that decode them.

README.md in this folder defines the four kinds of rules.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.engine.data.clip.extras import EXTRAS
from phys4d.engine.data.clip.schema import AFFINE

_TOP = 65535
_KINDS = ("inverse16", "relative16", "linear16", "linear32")
_NORMAL, _INFINITE = 0x00800000, 0x7F800000  # float32 bits of the smallest normal number and of infinity
_BLOCK = 1 << 15  # elements
_PART = 1 << 17  # codes that are looked up at a time
_LARGEST, _HUGE = 1e38, 1e300  # below the largest numbers of float32 and float64


@dataclass(frozen=True)
class Relative:
    """Largest relative error of values >= 0 (2e-4: 0.02 %); 0 is stored exactly."""

    error: float


@dataclass(frozen=True)
class Absolute:
    """Largest absolute error of each slice of the first axis, in the unit of the array; 0 is exact if it is in the
    range.
    """

    error: tuple[float, ...]


Quantisation = Relative | Absolute

# Largest errors of a dataset's truth: 0.02 % of depth in metres, 1/256 px of du and dv, 0.1 mm of dz.
QUANTISATION: Mapping[str, Quantisation] = {"depth": Relative(2e-4), "motion": Absolute((1 / 256, 1 / 256, 1e-4))}

_DISPARITY = 1e-5  # of a clip's largest disparity; half a step of 16 bits is 0.8e-5 of it


def quantisation(arrays: Mapping[str, np.ndarray], depth_kind: str) -> Mapping[str, Quantisation]:
    """Those of `QUANTISATION` and `EXTRAS` for the arrays of a clip. Disparity up to scale and shift, of which a
    relative error means nothing, is kept within 0.001 % of the clip's largest.

    arrays: of the clip. depth_kind: one of `schema.DEPTH_KINDS`.
    """
    rules = {name: rule for name, rule in QUANTISATION.items() if name in arrays}
    rules |= {name: Absolute(rule.error) for name, rule in EXTRAS.items() if rule.error and name in arrays}
    if "depth" in rules and depth_kind == AFFINE:
        depth = arrays["depth"]
        rules["depth"] = Absolute((_DISPARITY * float(depth.max(initial=0)) or 1.0,) * len(depth))
    return rules


def encode_array(name: str, array: np.ndarray, wanted: Quantisation) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Codes and their decoding rule, or float32 and None if 16 or 32 bits do not keep the error."""
    if not np.issubdtype(array.dtype, np.floating) or array.ndim == 0:
        got = f"{array.dtype} {array.shape}"
        raise ValueError(f"array {name!r}: only float arrays with an axis are quantised, got {got}")
    with np.errstate(over="ignore"):  # quantised arrays come back as float32, so they must fit it
        value = array.astype(np.float32, copy=False)
    if not (np.isfinite(value.min(initial=0)) and np.isfinite(value.max(initial=0))):  # NaN is both
        count = np.count_nonzero(~np.isfinite(value))
        raise ValueError(f"array {name!r}: holds {count} values that are not finite")
    if isinstance(wanted, Absolute):
        if len(wanted.error) != len(value):
            raise ValueError(f"array {name!r}: {len(wanted.error)} errors for {len(value)} slices of the first axis")
        return _linear16(value, wanted.error) or _linear32(value, wanted.error) or (value, None)
    if value.min(initial=0) < 0:
        raise ValueError(f"array {name!r}: a relative error needs values >= 0, got {value.min():.6g}")
    return _inverse16(value, wanted.error) or _relative16(value, wanted.error) or (value, None)


def _inverse16(value: np.ndarray, error: float) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Codes uniform in 1/value; these compress best for planes, since 1/z is affine in the pixel coordinates."""
    flat = value.reshape(-1)
    smallest = float(np.min(flat, where=flat > 0, initial=np.inf))  # 1/x is monotonic, as it is rounded, too
    low, high = (1 / float(flat.max()), 1 / smallest) if smallest < np.inf else (0.0, 0.0)
    step = (high - low) / (_TOP - 1)
    if step / 2 > error * (low - step / 2):  # the relative error is largest for the largest value
        return None
    codes = np.zeros(flat.shape, dtype=np.uint16)
    for block in _blocks(flat.size):
        wide = flat[block].astype(np.float64)
        seen = wide > 0
        inverse = np.divide(1.0, wide, out=np.zeros_like(wide), where=seen)
        code = np.rint((inverse - low) / step) if step > 0 else np.zeros_like(inverse)
        codes[block] = np.where(seen, np.clip(code, 0, _TOP - 1) + 1, 0)
    return codes.reshape(value.shape), {"kind": "inverse16", "low": low, "step": step}


def _blocks(size: int) -> Iterator[slice]:
    """Slices of an array of `size` elements that the processor's cache holds with a few copies."""
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def _relative16(value: np.ndarray, error: float) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Codes uniform in the float32 bit pattern, about log2 of the value; integer arithmetic, the same on every machine.
    """
    bits, seen = value.view(np.int32).astype(np.int64), value > 0
    low, high = (int(bits[seen].min()), int(bits[seen].max())) if seen.any() else (_NORMAL, _NORMAL)
    step = max(1, math.ceil((high - low) / (_TOP - 1)))
    if low < _NORMAL or high + step > _INFINITE or _relative_error(step) > error:
        return None
    code = np.where(seen, (bits - low + step // 2) // step + 1, 0)
    return code.astype(np.uint16), {"kind": "relative16", "low": low, "step": step}


def _relative_error(step: int) -> float:
    """Relative error of half a step of float32 bits; a step is twice as large above the next power of two."""
    half = step // 2
    return half * 2.0**-23 / (1 - half * 2.0**-24)


def _linear16(value: np.ndarray, error: tuple[float, ...]) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Codes uniform over the range of each slice of the first axis."""
    rows = value.reshape(len(value), math.prod(value.shape[1:]))
    base, zero, steps = [], [], []
    codes = np.zeros(rows.shape, dtype=np.uint16)
    for index, row in enumerate(rows):
        low, high = (float(row.min()), float(row.max())) if row.size else (0.0, 0.0)
        step = (high - low) / (_TOP - 1)
        if step / 2 > error[index]:
            return None
        spans = low <= 0.0 <= high and step > 0
        base.append(0.0 if spans else low)
        zero.append(math.ceil(-low / step) if spans else 0)
        steps.append(step)
        for block in _blocks(row.size if step > 0 else 0):
            code = row[block].astype(np.float64)
            code -= base[-1]
            code /= step
            np.rint(code, out=code)
            code += zero[-1]
            codes[index, block] = np.clip(code, 0, _TOP, out=code)
    return codes.reshape(value.shape), {"kind": "linear16", "base": base, "zero": zero, "step": steps}


def _linear32(value: np.ndarray, error: tuple[float, ...]) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Integer multiples of each slice's error; high bytes that are zero compress to almost nothing."""
    assert min(error, default=1) > 0
    code = np.rint(value.astype(np.float64) / np.reshape(error, (-1,) + (1,) * (value.ndim - 1)))
    if np.abs(code).max(initial=0) > np.iinfo(np.int32).max:
        return None
    return code.astype(np.int32), {"kind": "linear32", "step": list(error)}


def dequantise(code: np.ndarray, rule: Mapping[str, Any], lowest: np.ndarray | None = None) -> np.ndarray:
    """float32 values from codes; 16-bit codes through a table of 65,536 values (for linear16, one for each slice).

    code: as `check_rule` has found it to be.
    rule: of the codes.
    lowest: uint16 [1], gets the smallest code of inverse16 and relative16 where it is smaller; they are looked at while
        the processor's cache holds them.
    """
    every = np.arange(_TOP + 1)
    value = np.empty(code.shape, dtype=np.float32)
    if rule["kind"] == "relative16":
        bits = np.minimum(rule["low"] + (every - 1) * rule["step"], _INFINITE)
        _look_up(np.where(every > 0, bits, 0).astype(np.int32).view(np.float32), code, value, lowest)
    elif rule["kind"] == "inverse16":
        inverse = rule["low"] + (every - 1) * rule["step"]
        table = np.divide(1.0, inverse, out=np.zeros(_TOP + 1), where=(every > 0) & (inverse > 0))
        _look_up(table.astype(np.float32), code, value, lowest)
    elif rule["kind"] == "linear32":
        for index, step in enumerate(rule["step"]):
            value[index] = code[index] * step
    else:
        for index, (base, zero, step) in enumerate(zip(rule["base"], rule["zero"], rule["step"], strict=True)):
            _look_up((base + (every - zero) * step).astype(np.float32), code[index], value[index, ...])
    return value


def _look_up(table: np.ndarray, code: np.ndarray, value: np.ndarray, lowest: np.ndarray | None = None) -> None:
    """Fills `value` with the entries of the table; `take` into what is there is faster than an index, and `clip`, which
    changes no code of 16 bits, is what it needs for that.
    """
    codes, values = code.reshape(-1), value.reshape(-1)
    for start in range(0, codes.size, _PART):
        part = codes[start : start + _PART]
        if lowest is not None:
            np.minimum(lowest, part.min(), out=lowest)
        np.take(table, part, out=values[start : start + _PART], mode="clip")


def check_rule(name: str, entry: Mapping[str, Any], rule: Mapping[str, Any]) -> None:
    """Raises ValueError unless the rule has the numbers of its kind, for codes of the dtype and shape in `entry`."""
    if rule["kind"] not in _KINDS:
        raise ValueError(f"array {name!r}: cannot read quantisation {rule['kind']!r}, only {', '.join(_KINDS)}")
    linear = rule["kind"].startswith("linear")
    keys = {"linear16": ("base", "zero", "step"), "linear32": ("step",)}.get(rule["kind"], ("low", "step"))
    numbers = [number for key in keys for number in (rule[key] if linear else (rule[key],))]
    kinds = (int,) if rule["kind"] == "relative16" else (int, float)
    right = {*map(type, numbers)} <= {*kinds} and all(map(_HUGE.__gt__, map(abs, numbers)))
    if rule["kind"] == "relative16":
        right = right and all(0 <= number <= _INFINITE for number in numbers)
    if linear:
        right = right and bool(entry["shape"]) and {len(rule[key]) for key in keys} == {entry["shape"][0]}
    if not right or entry["dtype"] != ("int32" if rule["kind"] == "linear32" else "uint16"):
        of = f"{rule['kind']} of {entry['dtype']} {entry['shape']}"
        raise ValueError(f"is corrupt: array {name!r}: quantisation {of}")


def always_finite(rule: Mapping[str, Any]) -> bool:
    """Whether a rule gives finite float32 values for all codes."""
    if rule["kind"] == "relative16":
        return rule["low"] >= 0 and rule["step"] >= 0 and rule["low"] + _TOP * rule["step"] < _INFINITE
    if rule["kind"] == "inverse16":
        return rule["low"] - rule["step"] > 1 / _LARGEST and rule["step"] >= 0
    if rule["kind"] == "linear32":
        return max(map(abs, rule["step"]), default=0) * 2.0**31 < _LARGEST
    rows = zip(rule["base"], rule["zero"], rule["step"], strict=True)
    return all(abs(base) + (abs(zero) + _TOP) * abs(step) < _LARGEST for base, zero, step in rows)


def least_sign(code: np.ndarray, rule: Mapping[str, Any]) -> int:
    """Sign of the smallest value, as far as the codes tell without decoding: 1 if all values are above 0, 0 if none is
    below, -1 if only the values tell. The smallest code is looked for only where it decides.
    """
    if rule["kind"] == "linear32":
        return -1
    if rule["kind"] == "linear16":  # every row is monotonic in its codes, also as it is rounded
        rows = zip(rule["base"], rule["zero"], rule["step"], strict=True)
        lowest = min((base + (q - zero) * step for base, zero, step in rows for q in (0, _TOP)), default=0.0)
        return 0 if lowest >= 0 else -1
    first, last = rule["low"], rule["low"] + _TOP * rule["step"]  # bits, or 1 / value, which is 0 above _LARGEST
    end = _INFINITE if rule["kind"] == "relative16" else _LARGEST
    return 1 if 0 < first <= last < end and code.min(initial=_TOP) > 0 else 0


def error_bound(entry: Mapping[str, Any], value: np.ndarray) -> np.ndarray:
    """Largest error of a stored array, fp64, broadcastable to `value`; 0 for unquantised arrays.

    entry: header entry of the array.
    value: the values before storing, in the shape of the array.

    Rounding of the result to float32 is not included.
    """
    if not (rule := entry.get("quantisation")):
        return np.zeros(())
    if rule["kind"] == "relative16":
        return np.abs(value, dtype=np.float64) * _relative_error(rule["step"])
    if rule["kind"] == "inverse16":
        half, value = rule["step"] / 2, np.asarray(value, dtype=np.float64)
        return half * value**2 / (1 - half * value)
    steps = np.asarray(rule["step"], dtype=np.float64) / 2
    return steps.reshape((-1,) + (1,) * (len(entry["shape"]) - 1))
