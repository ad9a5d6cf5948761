"""Boxes of an mp4 (ISO/IEC 14496-12), and the counts that its tables claim, read before FFmpeg allocates memory."""

import struct
from collections.abc import Iterator

from phys4d.engine.limits import EDITS, FRAMES

_HEADER = struct.Struct(">I4s")  # size and kind of a box
_ENTRY = struct.Struct(">I4x")  # of stts and ctts: the number of frames, and the time that they have
_CONTAINERS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf"))


def check_tables(data: bytes) -> None:
    """ValueError if a table claims more frames than `FRAMES`, or an edit list more entries than `EDITS`.

    data: an mp4 or mov; of another format nothing is found. A table of equal entries takes a few bytes for any number
        of frames, so the claims are not bounded by the size of the file.
    """
    fragments = 0
    for kind, start, end in boxes(data):
        most, claimed = FRAMES, 0
        if kind == b"stsz" or kind == b"stz2":
            claimed = _number(data, start + 8, end)
        elif kind in (b"stts", b"ctts"):
            entries = min(_number(data, start + 4, end), (end - start - 8) // 8)
            pairs = data[start + 8 : start + 8 + 8 * min(entries, FRAMES + 1)]
            claimed = sum(count for (count,) in _ENTRY.iter_unpack(pairs))
        elif kind == b"trun":
            fragments += _number(data, start + 4, end)
            claimed = fragments
        elif kind == b"elst":
            most, claimed = EDITS, _number(data, start + 4, end)
        if claimed > most:
            what = "entries in its edit list" if kind == b"elst" else "frames"
            raise ValueError(f"claims {claimed} {what}, at most {most} are read")


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte after the header and end of every box of an mp4, of those that hold no boxes."""
    return _boxes(data, 0, len(data))


def _boxes(data: bytes, at: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte after the header and end of every box; boxes that hold boxes are entered."""
    while at + 8 <= end:
        (size, kind), header = _HEADER.unpack_from(data, at), 8
        if size == 1:  # the size follows in 64 bits
            size, header = int.from_bytes(data[at + 8 : at + 16]), 16
        if size == 0:  # to the end of the file
            size = end - at
        if size < header:
            return
        last = min(at + size, end)
        if kind in _CONTAINERS and depth < len(_CONTAINERS):
            yield from _boxes(data, at + header, last, depth + 1)
        else:
            yield kind, at + header, last
        at += size


def _number(data: bytes, at: int, end: int) -> int:
    return int.from_bytes(data[at : at + 4]) if at + 4 <= end else 0
