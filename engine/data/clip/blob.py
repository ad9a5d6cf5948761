"""Named arrays of one clip in one buffer: a validated JSON header and quantised, compressed data.

Layout (little endian): magic "P4BLOB01", uint32 length of the header, uint32 crc32 of the header, the header (JSON),
then one blosc2 buffer for each array. Nothing is unpickled, and sizes are checked before memory is allocated. README.md
in this folder describes the format field by field.
"""

import json
import math
import struct
import zlib
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any

import blosc2
import numpy as np

from phys4d.engine.data.clip.quantisation import (
    QUANTISATION,
    Absolute,
    Quantisation,
    Relative,
    always_finite,
    check_rule,
    dequantise,
    encode_array,
    error_bound,
    least_sign,
    quantisation,
)
from phys4d.engine.limits import ARRAY_BYTES, ARRAY_DIMENSIONS, ARRAYS, BLOB_HEADER_BYTES

__all__ = [
    "QUANTISATION", "Absolute", "Quantisation", "Relative", "check_names", "check_sums", "decode", "encode",
    "error_bound", "header", "header_end", "quantisation",
]  # fmt: skip

Entries = Mapping[str, Mapping[str, Any]]
"""A header: name -> shape, dtype, offset, bytes, crc32, quantisation."""

MAGIC = b"P4BLOB01"
_PREFIX = struct.Struct("<8sII")
_DTYPES = ("bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")
_ITEM = {name: np.dtype(name).itemsize for name in _DTYPES}
_BLOCK_BYTES = 1 << 18  # fixed: blosc2's own choice may depend on the machine, and the bytes must not
blosc2.set_releasegil(True)  # threads decompress beside training, which the lock would hold up for milliseconds
# Header of a blosc2 chunk: versions of the format and codec, flags, typesize, the three sizes, filters and their data.
_CHUNK = struct.Struct("<4B3i6sBB8s")
_LAST_BUILT_IN = 4  # of the filters: none, shuffle, bitshuffle, delta, truncation of precision
_LAST_CODEC = 5  # in the flags; 6 means one that is named elsewhere in the header
_MASKS = 64  # most compressed masks that are remembered
_masks: set[bytes] = set()
"""Short compressed masks whose bytes were found to be true or false: those of masks that are the same everywhere."""


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
            array, rule = encode_array(name, array, quantise[name])
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


def decode(
    data: bytes,
    names: Collection[str] | None = None,
    check: Callable[[Entries], object] = lambda entries: None,
    signs: MutableMapping[str, int] | None = None,
    *,
    sums: bool = True,
    known: bool = False,
) -> dict[str, np.ndarray]:
    """Unpacks arrays in stored order.

    data: the blob.
    names: of the arrays; other arrays are not decompressed. None: all.
    check: called with the header's entries before anything is unpacked.
    signs: gets `least_sign` for each of its names that is quantised.
    sums: whether the CRC-32 of each buffer is compared: not where a digest of the whole blob was.
    known: whether the same bytes were unpacked before with the same arguments, and nothing was wrong: all checks, which
        depend on nothing else, are then left out, and `signs` gets nothing.

    Raises ValueError if the data is not a blob, truncated or corrupt, or lacks one of the names.
    """
    entries, start = _entries(data, len(data), known)
    if not known:
        check(entries)
        check_names(entries, names)
    wanted = entries if names is None else {name: entries[name] for name in entries if name in names}
    buffers = memoryview(data)[start:]
    if sums and not known:
        _check_sums(buffers, wanted)
    return {name: _unpack(buffers, entry, signs or {}, known) for name, entry in wanted.items()}


def check_sums(data: bytes) -> None:
    """Compares the CRC-32 of the header and of each buffer of a blob. Raises ValueError that names the array."""
    entries, start = _entries(data, len(data))
    _check_sums(memoryview(data)[start:], entries)


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


def _entries(data: bytes, end: int, known: bool = False) -> tuple[dict[str, dict[str, Any]], int]:
    """Validates prefix and header of a blob of `end` bytes, unless it is `known` that they are right; returns entries
    by name and the offset of the buffers.
    """
    if len(data) < _PREFIX.size or data[:8] != MAGIC:
        raise ValueError(f"is no array blob: {len(data)} bytes beginning with {bytes(data[:8])!r}")
    _, length, checksum = _PREFIX.unpack_from(data)
    start = _PREFIX.size + length
    if start > len(data):
        raise ValueError(f"is truncated: the header ends at byte {start}, the data at {len(data)}")
    if length > BLOB_HEADER_BYTES:
        raise ValueError(f"has a header of {length} bytes, at most {BLOB_HEADER_BYTES} are read")
    raw = data[_PREFIX.size : start]
    if known:
        return {entry["name"]: entry for entry in json.loads(raw)["arrays"]}, start
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
    if entry["name"] != name:
        raise TypeError(f"array {name!r}: a name that is no text")
    if {*map(type, (*shape, *place))} != {int}:
        raise TypeError(f"array {name!r}: a number that is not whole")
    if entry["dtype"] not in _DTYPES or min(shape, default=0) < 0 or len(shape) > ARRAY_DIMENSIONS:
        raise ValueError(f"array {name!r}: cannot read dtype {entry['dtype']} of shape {shape}")
    rule = entry.get("quantisation")
    if place[0] < 0 or place[1] < 0 or place[0] + place[1] > end:
        raise ValueError(f"is truncated: array {name!r} ends at byte {place[0] + place[1]} of {end}")
    if (needed := math.prod(shape) * max(_ITEM[entry["dtype"]], 4 if rule else 0)) > ARRAY_BYTES:
        raise ValueError(f"array {name!r}: shape {shape} needs {needed} bytes, at most {ARRAY_BYTES} are read")
    if rule:
        check_rule(name, entry, rule)


def _check_sums(buffers: memoryview, entries: Entries) -> None:
    for name, entry in entries.items():
        if zlib.crc32(_buffer(buffers, entry)) != entry["crc32"]:
            raise ValueError(f"is corrupt: the checksum of array {name!r} does not match")


def _buffer(buffers: memoryview, entry: Mapping[str, Any]) -> memoryview:
    return buffers[entry["offset"] : entry["offset"] + entry["bytes"]]


def _unpack(
    buffers: memoryview, entry: Mapping[str, Any], signs: MutableMapping[str, int], known: bool
) -> np.ndarray:
    name, dtype, shape, rule = entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"]), entry.get("quantisation")
    buffer = _buffer(buffers, entry)
    if (expected := math.prod(shape) * dtype.itemsize) and not known:
        _check_chunk(name, buffer, expected)
    array = np.empty(shape, dtype)
    if expected:
        try:
            unpacked = blosc2.decompress2(buffer, dst=array, nthreads=1)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"is corrupt: array {name!r} does not unpack ({error})") from None
        assert unpacked is None or unpacked == expected
    if not known and dtype.kind == "b":
        _check_bools(name, buffer, array)
    if not rule:
        return array
    lowest = np.full(1, np.iinfo(np.uint16).max, np.uint16) if name in signs and not known else None
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        value = dequantise(array, rule, lowest)
    if lowest is not None:
        signs[name] = least_sign(lowest, rule)
    if not (known or always_finite(rule) or np.isfinite(value).all()):
        raise ValueError(f"is corrupt: array {name!r} holds values that are not finite")
    return value


def _check_bools(name: str, buffer: memoryview, array: np.ndarray) -> None:
    """Raises ValueError for bytes that are neither true nor false, whose use as bool is not defined.

    buffer: the compressed array, of which the array is a function. A mask that is the same everywhere takes a few
        bytes; most clips have some, and one that was found right is not looked at again.
    """
    short = bytes(buffer) if len(buffer) <= _CHUNK.size * 2 + array.size // 4096 else None
    if short in _masks:
        return
    if array.size and array.view(np.uint8).max() > 1:
        raise ValueError(f"is corrupt: array {name!r} holds bytes that are neither true nor false")
    if short is not None:
        if len(_masks) >= _MASKS:
            _masks.clear()
        _masks.add(short)


def _check_chunk(name: str, buffer: memoryview, expected: int) -> None:
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
