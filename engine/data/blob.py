"""Named arrays of one clip in one buffer: a validated JSON header and quantised, compressed data.

Layout (little endian): magic "P4BLOB01", uint32 length of the header, uint32 crc32 of the header, the header (JSON),
then one blosc2 buffer for each array. Nothing is unpickled, and sizes are checked before memory is allocated. README.md
in this folder describes the format field by field.
"""

import json
import math
import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import blosc2
import numpy as np

from phys4d.engine.limits import ARRAY_BYTES, ARRAY_DIMENSIONS, ARRAYS, BLOB_HEADER_BYTES


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

# Largest errors of a dataset's truth: 0.02 % of depth, 1/256 px of du and dv, 0.1 mm of dz.
QUANTISATION: Mapping[str, Quantisation] = {"depth": Relative(2e-4), "motion": Absolute((1 / 256, 1 / 256, 1e-4))}

MAGIC = b"P4BLOB01"
_PREFIX = struct.Struct("<8sII")
_DTYPES = ("bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")
_BLOCK_BYTES = 1 << 18  # fixed: blosc2's own choice may depend on the machine, and the bytes must not
_TOP = 65535
_KINDS = ("inverse16", "relative16", "linear16", "linear32")
_NORMAL, _INFINITE = 0x00800000, 0x7F800000  # float32 bits of the smallest normal number and of infinity
_LARGEST, _HUGE = 1e38, 1e300  # below the largest numbers of float32 and float64
# Header of a blosc2 chunk: versions of the format and codec, flags, typesize, the three sizes, filters and their data.
_CHUNK = struct.Struct("<4B3i6sBB8s")
_LAST_BUILT_IN = 4  # of the filters: none, shuffle, bitshuffle, delta, truncation of precision
_LAST_CODEC = 5  # in the flags; 6 means one that is named elsewhere in the header


def encode(arrays: Mapping[str, np.ndarray], quantise: Mapping[str, Quantisation] | None = None) -> bytes:
    """Packs named arrays; the bytes are a function of the arguments (for one version of blosc2).

    arrays: name -> array of bool, uint8, int16/32/64, uint16 or float16/32/64, any shape.
    quantise: name -> largest error of a float array. `Relative` is stored as the first of inverse16, relative16 and
        float32 that keeps the error for every value, `Absolute` as the first of linear16, linear32 and float32. These
        arrays are decoded to float32, other arrays exactly as they were.

    Raises ValueError for an unknown dtype or name, a negative value of a `Relative` array, or a value that is not
    finite.
    """
    quantise = quantise or {}
    if unknown := sorted(quantise.keys() - arrays.keys()):
        raise ValueError(f"quantise names an array that is not there: {', '.join(unknown)}")
    entries, buffers, offset = [], [], 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape)}
        if name in quantise:
            array, rule = _quantise(name, array, quantise[name])
            entry |= {"quantisation": rule} if rule else {}
        elif array.dtype.name not in _DTYPES:
            raise ValueError(f"array {name!r}: cannot store dtype {array.dtype}, only {', '.join(_DTYPES)}")
        buffer = _compress(array)
        entry |= {"dtype": array.dtype.name, "offset": offset, "bytes": len(buffer)}
        entry["crc32"] = zlib.crc32(buffer)
        offset += len(buffer)
        entries.append(entry)
        buffers.append(buffer)
    header = json.dumps({"arrays": entries}, separators=(",", ":"), sort_keys=True).encode()
    return b"".join([_PREFIX.pack(MAGIC, len(header), zlib.crc32(header)), header, *buffers])


def decode(data: bytes, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Unpacks the arrays called `names` (None: all) in stored order; other arrays are not decompressed.

    Raises ValueError if the data is not a blob, truncated or corrupt, or lacks one of the names.
    """
    entries, start = _entries(data, len(data))
    check_names(entries, names)
    wanted = entries if names is None else {name: entries[name] for name in entries if name in names}
    return {name: _unpack(data, start, entry) for name, entry in wanted.items()}


def check_names(entries: Collection[str], names: Collection[str] | None) -> None:
    """Raises ValueError unless the header's entries include all of `names`."""
    if names is not None and (absent := sorted(set(names) - set(entries))):
        has = ", ".join(sorted(entries)) or "none"
        raise ValueError(f"holds no array {', '.join(map(repr, absent))}, only {has}")


def header(data: bytes, size: int | None = None) -> dict[str, dict[str, Any]]:
    """The validated header entries by name: shape, dtype, offset, bytes, crc32, quantisation.

    data: the blob, or its beginning up to `header_end`.
    size: of the whole blob in bytes; None: that of `data`.
    """
    return _entries(data, len(data) if size is None else size)[0]


def header_end(data: bytes) -> int:
    """The byte at which the header ends, within the limit of headers; data: the beginning of a blob."""
    return _PREFIX.size + min(_PREFIX.unpack_from(data)[1], BLOB_HEADER_BYTES) if len(data) >= _PREFIX.size else 0


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


def _quantise(name: str, array: np.ndarray, wanted: Quantisation) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Codes and their decoding rule, or float32 and None if 16 or 32 bits do not keep the error."""
    if not np.issubdtype(array.dtype, np.floating) or array.ndim == 0:
        got = f"{array.dtype} {array.shape}"
        raise ValueError(f"array {name!r}: only float arrays with an axis are quantised, got {got}")
    with np.errstate(over="ignore"):  # quantised arrays come back as float32, so they must fit it
        value = array.astype(np.float32)
    if not np.isfinite(value).all():
        count = np.count_nonzero(~np.isfinite(value))
        raise ValueError(f"array {name!r}: holds {count} values that are not finite")
    if isinstance(wanted, Absolute):
        if len(wanted.error) != len(value):
            raise ValueError(f"array {name!r}: {len(wanted.error)} errors for {len(value)} slices of the first axis")
        return _linear16(value, wanted.error) or _linear32(value, wanted.error) or (value, None)
    if (value < 0).any():
        raise ValueError(f"array {name!r}: a relative error needs values >= 0, got {value.min():.6g}")
    return _inverse16(value, wanted.error) or _relative16(value, wanted.error) or (value, None)


def _inverse16(value: np.ndarray, error: float) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Codes uniform in 1/value; these compress best for planes, since 1/z is affine in the pixel coordinates."""
    value = value.astype(np.float64)
    seen = value > 0
    inverse = np.divide(1.0, value, out=np.zeros_like(value), where=seen)
    low, high = (float(inverse[seen].min()), float(inverse[seen].max())) if seen.any() else (0.0, 0.0)
    step = (high - low) / (_TOP - 1)
    if step / 2 > error * (low - step / 2):  # the relative error is largest for the largest value
        return None
    code = np.rint((inverse - low) / step) if step > 0 else np.zeros_like(inverse)
    code = np.where(seen, np.clip(code, 0, _TOP - 1) + 1, 0)
    return code.astype(np.uint16), {"kind": "inverse16", "low": low, "step": step}


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
    rows = value.astype(np.float64).reshape(len(value), math.prod(value.shape[1:]))
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
        if step > 0:
            codes[index] = np.clip(np.rint((row - base[-1]) / step) + zero[-1], 0, _TOP)
    return codes.reshape(value.shape), {"kind": "linear16", "base": base, "zero": zero, "step": steps}


def _linear32(value: np.ndarray, error: tuple[float, ...]) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Integer multiples of each slice's error; high bytes that are zero compress to almost nothing."""
    assert min(error, default=1) > 0
    code = np.rint(value.astype(np.float64) / np.reshape(error, (-1,) + (1,) * (value.ndim - 1)))
    if np.abs(code).max(initial=0) > np.iinfo(np.int32).max:
        return None
    return code.astype(np.int32), {"kind": "linear32", "step": list(error)}


def _dequantise(code: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """float32 values from codes; 16-bit codes through a table of 65,536 values (for linear16, one for each slice)."""
    every = np.arange(_TOP + 1)
    if rule["kind"] == "relative16":
        bits = np.minimum(rule["low"] + (every - 1) * rule["step"], _INFINITE)
        return np.where(every > 0, bits, 0).astype(np.int32).view(np.float32)[code]
    if rule["kind"] == "inverse16":
        inverse = rule["low"] + (every - 1) * rule["step"]
        table = np.divide(1.0, inverse, out=np.zeros(_TOP + 1), where=(every > 0) & (inverse > 0))
        return table.astype(np.float32)[code]
    value = np.empty(code.shape, dtype=np.float32)
    if rule["kind"] == "linear32":
        for index, step in enumerate(rule["step"]):
            value[index] = code[index] * step
        return value
    for index, (base, zero, step) in enumerate(zip(rule["base"], rule["zero"], rule["step"], strict=True)):
        value[index] = (base + (every - zero) * step).astype(np.float32)[code[index]]
    return value


def _compress(array: np.ndarray) -> bytes:
    if array.size == 0:
        return b""
    return blosc2.compress2(
        np.ascontiguousarray(array),
        codec=blosc2.Codec.ZSTD,
        clevel=3,
        typesize=array.dtype.itemsize,
        filters=[blosc2.Filter.BITSHUFFLE],
        nthreads=1,
        blocksize=_BLOCK_BYTES,
    )


def _entries(data: bytes, end: int) -> tuple[dict[str, dict[str, Any]], int]:
    """Validates prefix and header of a blob of `end` bytes; returns entries by name and the offset of the buffers."""
    if len(data) < _PREFIX.size or data[:8] != MAGIC:
        raise ValueError(f"is no array blob: {len(data)} bytes beginning with {bytes(data[:8])!r}")
    _, length, checksum = _PREFIX.unpack_from(data)
    start = _PREFIX.size + length
    if start > len(data):
        raise ValueError(f"is truncated: the header ends at byte {start}, the data at {len(data)}")
    if length > BLOB_HEADER_BYTES:
        raise ValueError(f"has a header of {length} bytes, at most {BLOB_HEADER_BYTES} are read")
    raw = data[_PREFIX.size : start]
    if zlib.crc32(raw) != checksum:
        raise ValueError("is corrupt: the checksum of the header does not match")
    try:
        listed = json.loads(raw)["arrays"]
        if len(listed) > ARRAYS:
            raise ValueError(f"holds {len(listed)} arrays, at most {ARRAYS} are read")
        entries = {str(entry["name"]): entry for entry in listed}
        for name, entry in entries.items():
            _check_entry(name, entry, end - start)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"is corrupt: the header cannot be read ({type(error).__name__}: {error})") from None
    return entries, start


def _check_entry(name: str, entry: Mapping[str, Any], end: int) -> None:
    """Raises ValueError for an entry that cannot be read, or KeyError or TypeError if it lacks a key or has a value of
    another type; end: bytes of all buffers.
    """
    shape, place = entry["shape"], (entry["offset"], entry["bytes"], entry["crc32"])
    if any(type(number) is not int for number in (*shape, *place)):
        raise TypeError(f"array {name!r}: a number that is not whole")
    if entry["dtype"] not in _DTYPES or any(size < 0 for size in shape) or len(shape) > ARRAY_DIMENSIONS:
        raise ValueError(f"array {name!r}: cannot read dtype {entry['dtype']} of shape {shape}")
    rule = entry.get("quantisation")
    if rule and rule["kind"] not in _KINDS:
        raise ValueError(f"array {name!r}: cannot read quantisation {rule['kind']!r}, only {', '.join(_KINDS)}")
    if place[0] < 0 or place[1] < 0 or place[0] + place[1] > end:
        raise ValueError(f"is truncated: array {name!r} ends at byte {place[0] + place[1]} of {end}")
    item = 4 if rule else 0
    if (needed := math.prod(shape) * max(np.dtype(entry["dtype"]).itemsize, item)) > ARRAY_BYTES:
        raise ValueError(f"array {name!r}: shape {shape} needs {needed} bytes, at most {ARRAY_BYTES} are read")
    if rule:
        _check_rule(name, entry, rule)


def _check_rule(name: str, entry: Mapping[str, Any], rule: Mapping[str, Any]) -> None:
    """Raises ValueError unless the rule has the numbers of its kind, for codes of the dtype and shape in `entry`."""
    linear = rule["kind"].startswith("linear")
    keys = {"linear16": ("base", "zero", "step"), "linear32": ("step",)}.get(rule["kind"], ("low", "step"))
    numbers = [number for key in keys for number in (rule[key] if linear else (rule[key],))]
    kinds = (int,) if rule["kind"] == "relative16" else (int, float)
    right = all(type(number) in kinds and abs(number) < _HUGE for number in numbers)
    if rule["kind"] == "relative16":
        right = right and all(0 <= number <= _INFINITE for number in numbers)
    if linear:
        right = right and bool(entry["shape"]) and {len(rule[key]) for key in keys} == {entry["shape"][0]}
    if not right or entry["dtype"] != ("int32" if rule["kind"] == "linear32" else "uint16"):
        of = f"{rule['kind']} of {entry['dtype']} {entry['shape']}"
        raise ValueError(f"is corrupt: array {name!r}: quantisation {of}")


def _unpack(data: bytes, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    name, dtype, shape = entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"])
    buffer = data[start + entry["offset"] : start + entry["offset"] + entry["bytes"]]
    if zlib.crc32(buffer) != entry["crc32"]:
        raise ValueError(f"is corrupt: the checksum of array {name!r} does not match")
    expected = math.prod(shape) * dtype.itemsize
    if expected:
        _check_chunk(name, buffer, expected)
    array = np.empty(shape, dtype)
    if expected:
        try:
            unpacked = blosc2.decompress2(buffer, dst=array, nthreads=1)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"is corrupt: array {name!r} does not unpack ({error})") from None
        assert unpacked is None or unpacked == expected
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise ValueError(f"is corrupt: array {name!r} holds bytes that are neither true nor false")
    if not entry.get("quantisation"):
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        value = _dequantise(array, entry["quantisation"])
    if not _finite(entry["quantisation"]) and not np.isfinite(value).all():
        raise ValueError(f"is corrupt: array {name!r} holds values that are not finite")
    return value


def _check_chunk(name: str, buffer: bytes, expected: int) -> None:
    """Raises ValueError unless the header of a blosc2 chunk states these sizes and a codec and filters that are built
    in: others would be loaded as plugins.
    """
    if len(buffer) < _CHUNK.size:
        raise ValueError(f"is corrupt: array {name!r} has no buffer")
    _, _, flags, _, size, block, packed, filters, _, _, _ = _CHUNK.unpack_from(buffer)
    if size != expected:
        raise ValueError(f"is corrupt: array {name!r} holds {size} bytes, its shape needs {expected}")
    if packed != len(buffer) or not 0 < block <= size or max(filters) > _LAST_BUILT_IN or flags >> 5 > _LAST_CODEC:
        raise ValueError(f"is corrupt: the chunk of array {name!r} has a header that cannot be read")


def _finite(rule: Mapping[str, Any]) -> bool:
    """Whether a rule gives finite float32 values for all codes."""
    if rule["kind"] == "relative16":
        return rule["low"] >= 0 and rule["step"] >= 0 and rule["low"] + _TOP * rule["step"] < _INFINITE
    if rule["kind"] == "inverse16":
        return rule["low"] - rule["step"] > 1 / _LARGEST and rule["step"] >= 0
    if rule["kind"] == "linear32":
        return max(map(abs, rule["step"]), default=0) * 2.0**31 < _LARGEST
    rows = zip(rule["base"], rule["zero"], rule["step"], strict=True)
    return all(abs(base) + (abs(zero) + _TOP) * abs(step) < _LARGEST for base, zero, step in rows)
