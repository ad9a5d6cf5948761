"""Named arrays of one clip in one buffer: a checked JSON header and quantised, compressed raw data.

Layout (little endian): magic "P4BLOB01", uint32 length of the header, uint32 crc32 of the header, the header
(JSON), then one blosc2 buffer per array. Nothing is unpickled and nothing is allocated before its size has
been checked against the header. README.md in this folder gives the format field by field.
"""

import json
import math
import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

import blosc2
import numpy as np

Quantisation = Literal["inverse16", "linear16"]

MAGIC = b"P4BLOB01"
_PREFIX = struct.Struct("<8sII")
_DTYPES = ("bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")
_BLOCK_BYTES = 1 << 18  # fixed: blosc2's own choice may depend on the machine, and the bytes must not
_TOP = 65535


def encode(arrays: Mapping[str, np.ndarray], quantise: Mapping[str, Quantisation] | None = None) -> bytes:
    """Packs named arrays; the bytes are a function of the arguments (for one version of blosc2).

    arrays: name -> array of bool, uint8, int16/32/64, uint16 or float16/32/64, any shape. quantise: name ->
    "inverse16" (depth: float, >= 0, where 0 means "no surface" and stays 0; 16 bits, uniform in 1/value over
    the clip's range) or "linear16" (float, 16 bits, uniform over the range of each slice of the first axis;
    0 stays exactly 0 where the range holds it). Quantised arrays come back as float32, others exactly as
    they were. Raises ValueError for an unknown dtype or name, a negative depth, or one not finite.
    """
    quantise = quantise or {}
    if unknown := sorted(quantise.keys() - arrays.keys()):
        raise ValueError(f"quantise names an array that is not there: {', '.join(unknown)}")
    entries, buffers, offset = [], [], 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape)}
        if name in quantise:
            array, entry["quantisation"] = _quantise(name, array, quantise[name])
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
    """Unpacks the arrays called `names` (None: all), in stored order; the others are not decompressed.

    Raises ValueError saying what is wrong: no blob, truncated, corrupt, or a name that it does not hold.
    """
    entries, start = _entries(data)
    if names is not None and (absent := sorted(set(names) - entries.keys())):
        has = ", ".join(sorted(entries)) or "none"
        raise ValueError(f"holds no array {', '.join(map(repr, absent))}, only {has}")
    wanted = entries if names is None else {name: entries[name] for name in entries if name in names}
    return {name: _unpack(data, start, entry) for name, entry in wanted.items()}


def header(data: bytes) -> dict[str, dict[str, Any]]:
    """The checked header entries by name (shape, dtype, offset, bytes, crc32, quantisation)."""
    return _entries(data)[0]


def error_bound(entry: Mapping[str, Any]) -> np.ndarray:
    """Half a quantisation step of a header entry, fp64, broadcastable to the array; 0 for unquantised arrays.

    For "linear16" the bound is on the value, [first axis, 1, ...]; for "inverse16" on 1/value, scalar.
    Rounding of the result to float32 comes on top of it.
    """
    if not (rule := entry.get("quantisation")):
        return np.zeros(())
    if rule["kind"] == "inverse16":
        return np.asarray(rule["step"] / 2)
    steps = np.asarray(rule["step"], dtype=np.float64) / 2
    return steps.reshape((-1,) + (1,) * (len(entry["shape"]) - 1))


def _quantise(name: str, array: np.ndarray, kind: Quantisation) -> tuple[np.ndarray, dict[str, Any]]:
    if not np.issubdtype(array.dtype, np.floating) or array.ndim == 0:
        got = f"{array.dtype} {array.shape}"
        raise ValueError(f"array {name!r}: only float arrays with an axis are quantised, got {got}")
    with np.errstate(over="ignore"):  # quantised arrays come back as float32, so they must fit it
        value = array.astype(np.float32).astype(np.float64)
    if not np.isfinite(value).all():
        count = np.count_nonzero(~np.isfinite(value))
        raise ValueError(f"array {name!r}: holds {count} values that are not finite")
    if kind == "inverse16":
        if (value < 0).any():
            raise ValueError(f"array {name!r}: inverse16 needs values >= 0, got {value.min():.6g}")
        seen = value > 0
        inverse = np.divide(1.0, value, out=np.zeros_like(value), where=seen)
        low, high = (float(inverse[seen].min()), float(inverse[seen].max())) if seen.any() else (0.0, 0.0)
        step = (high - low) / (_TOP - 1)
        code = np.rint((inverse - low) / step) if step > 0 else np.zeros_like(inverse)
        code = np.where(seen, np.clip(code, 0, _TOP - 1) + 1, 0)
        return code.astype(np.uint16), {"kind": kind, "low": low, "step": step}
    if kind != "linear16":
        raise ValueError(f"array {name!r}: unknown quantisation {kind!r}")
    rows = value.reshape(len(value), math.prod(value.shape[1:]))
    base, zero, steps = [], [], []
    codes = np.zeros(rows.shape, dtype=np.uint16)
    for index, row in enumerate(rows):
        low, high = (float(row.min()), float(row.max())) if row.size else (0.0, 0.0)
        step = (high - low) / (_TOP - 1)
        spans = low <= 0.0 <= high and step > 0
        base.append(0.0 if spans else low)
        zero.append(math.ceil(-low / step) if spans else 0)
        steps.append(step)
        if step > 0:
            codes[index] = np.clip(np.rint((row - base[-1]) / step) + zero[-1], 0, _TOP)
    return codes.reshape(value.shape), {"kind": kind, "base": base, "zero": zero, "step": steps}


def _dequantise(code: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """Values from 16-bit codes through a table of 65,536 float32 values (one per slice for linear16)."""
    every = np.arange(_TOP + 1, dtype=np.float64)
    if rule["kind"] == "inverse16":
        inverse = rule["low"] + (every - 1) * rule["step"]
        table = np.divide(1.0, inverse, out=np.zeros_like(every), where=(every > 0) & (inverse > 0))
        return table.astype(np.float32)[code]
    value = np.empty(code.shape, dtype=np.float32)
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


def _entries(data: bytes) -> tuple[dict[str, dict[str, Any]], int]:
    """Checks prefix and header; returns entries by name and where the buffers begin."""
    if len(data) < _PREFIX.size or data[:8] != MAGIC:
        raise ValueError(f"is no array blob: {len(data)} bytes beginning with {bytes(data[:8])!r}")
    _, length, checksum = _PREFIX.unpack_from(data)
    start = _PREFIX.size + length
    if start > len(data):
        raise ValueError(f"is truncated: the header ends at byte {start}, the data at {len(data)}")
    raw = data[_PREFIX.size : start]
    if zlib.crc32(raw) != checksum:
        raise ValueError("is corrupt: the checksum of the header does not match")
    entries = {entry["name"]: entry for entry in json.loads(raw)["arrays"]}
    for name, entry in entries.items():
        if entry["dtype"] not in _DTYPES or any(size < 0 for size in entry["shape"]):
            raise ValueError(f"array {name!r}: cannot read dtype {entry['dtype']} of shape {entry['shape']}")
        if start + entry["offset"] + entry["bytes"] > len(data) or entry["offset"] < 0 or entry["bytes"] < 0:
            end = start + entry["offset"] + entry["bytes"]
            raise ValueError(f"is truncated: array {name!r} ends at byte {end}, the data at {len(data)}")
    return entries, start


def _unpack(data: bytes, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    name, dtype, shape = entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"])
    buffer = data[start + entry["offset"] : start + entry["offset"] + entry["bytes"]]
    if zlib.crc32(buffer) != entry["crc32"]:
        raise ValueError(f"is corrupt: the checksum of array {name!r} does not match")
    expected = math.prod(shape) * dtype.itemsize
    array = np.empty(shape, dtype)
    if expected:
        size = blosc2.get_cbuffer_sizes(buffer)[0]
        if size != expected:
            raise ValueError(f"is corrupt: array {name!r} holds {size} bytes, its shape needs {expected}")
        blosc2.decompress2(buffer, dst=array, nthreads=1)
    return _dequantise(array, entry["quantisation"]) if entry.get("quantisation") else array
