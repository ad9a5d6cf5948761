"""The files inside of a tar shard: where they are, from its headers alone, within limits and without unpacking.

A header that could lead somewhere else (links, devices, paths, sparse files) or claims more than `engine.limits` allows
is refused before anything is allocated for it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from phys4d.engine.data.access.open_files import open_regular
from phys4d.engine.limits import MEMBER_BYTES, TAR_TEXT_BYTES

BLOCK = 512
_REGULAR, _FOLDER = b"0\x007", b"5"
_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}
_PAX = re.compile(rb"(\d{1,9}) ([^=\n]{1,255})=")


@dataclass(frozen=True)
class TarFile:
    """A regular file in a tar. name: with its folders. offset: of its first byte in the tar. size: in bytes."""

    name: str
    offset: int
    size: int


def tar_files(path: Path) -> Iterator[TarFile]:
    """The regular files of an uncompressed tar (ustar, pax or GNU), in order.

    Raises ValueError for a tar that is cut off, damaged or refused, and OSError of the system.
    """
    with open(open_regular(path), "rb") as tar:
        end, at = os.fstat(tar.fileno()).st_size, 0
        name: str | None = None
        size: int | None = None
        while True:
            header = _block(tar, at)
            if not any(header):
                return _check_end(tar, at, end)
            kind, stated = header[156:157], _number(header[124:136], at)
            _check_sum(header, at)
            start = at + BLOCK
            if kind in (b"x", b"g", b"L"):
                if stated > TAR_TEXT_BYTES:
                    raise ValueError(f"has a header of {stated} bytes at byte {at}, at most {TAR_TEXT_BYTES} are read")
                text = _exactly(tar, start, stated)
                if kind == b"L":
                    name = _text(text.split(b"\0")[0], at)
                else:
                    name, size = _extended(text, at, name, size, everywhere=kind == b"g")
            else:
                stated = stated if size is None else size
                file = TarFile(_header_name(header, at) if name is None else name, start, stated)
                _check_file(file, kind, at, end)
                name = size = None
                if kind in _REGULAR and not file.name.endswith("/"):
                    yield file
            at = start + -(-stated // BLOCK) * BLOCK


def _check_file(file: TarFile, kind: bytes, at: int, end: int) -> None:
    if kind != _FOLDER and (not kind or kind not in _REGULAR):
        raise ValueError(f"holds {_KINDS.get(kind, 'an entry of another kind')} at byte {at}: only files are read")
    if file.name.startswith("/") or "\\" in file.name or ".." in file.name.split("/"):
        raise ValueError(f"holds {_shown(file.name)}, a path that leads out of it")
    if file.size > MEMBER_BYTES:
        raise ValueError(f"{_shown(file.name)} claims {file.size} bytes, at most {MEMBER_BYTES} are read")
    if kind == _FOLDER and file.size:
        raise ValueError(f"holds a folder of {file.size} bytes at byte {at}: it is damaged")
    if file.offset + file.size > end:
        raise ValueError(f"is cut off: {_shown(file.name)} ends at byte {file.offset + file.size} of {end}")


def _extended(
    text: bytes, at: int, name: str | None, size: int | None, *, everywhere: bool
) -> tuple[str | None, int | None]:
    """Name and size that a pax header gives the next file; one for all files gives neither."""
    place = 0
    while place < len(text):
        record = _PAX.match(text, place)
        if record is None or not record.end() - place < int(record[1]) <= len(text) - place:
            raise ValueError(f"has a damaged extended header at byte {at}")
        value, key = text[record.end() : place + int(record[1]) - 1], record[2]
        if (everywhere and key in (b"path", b"size", b"linkpath")) or key.startswith(b"GNU.sparse"):
            raise ValueError(f"has an extended header of {_shown(key.decode('ascii', 'replace'))} at byte {at}")
        if key == b"path":
            name = _text(value, at)
        if key == b"size":
            if not re.fullmatch(rb"\d{1,18}", value):
                raise ValueError(f"has a damaged extended header at byte {at}")
            size = int(value)
        place += int(record[1])
    return name, size


def _header_name(header: bytes, at: int) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name, at)


def _number(field: bytes, at: int) -> int:
    """A size: octal digits, or GNU's binary form."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise _damaged(at)
    return int(digits or b"0", 8)


def _check_sum(header: bytes, at: int) -> None:
    stated = _number(b"\0" + header[148:156], at)
    if stated != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise _damaged(at)


def _damaged(at: int) -> ValueError:
    what = f"has a damaged header at byte {at}"
    return ValueError(what if at else "is no tar: if it is compressed, unpack it first")


def _check_end(tar: BinaryIO, at: int, end: int) -> None:
    """Raises ValueError if something follows the end of the tar, such as another tar."""
    tar.seek(at)
    while block := tar.read(1 << 20):
        if any(block):
            raise ValueError(f"holds more behind its end at byte {at} of {end}: tars that are joined are not read")


def _block(tar: BinaryIO, at: int) -> bytes:
    tar.seek(at)
    if len(header := tar.read(BLOCK)) < BLOCK:
        raise ValueError(f"is cut off: it ends at byte {at + len(header)} without the end of a tar")
    return header


def _exactly(tar: BinaryIO, at: int, size: int) -> bytes:
    tar.seek(at)
    if len(data := tar.read(size)) < size:
        raise ValueError(f"is cut off: it ends at byte {at + len(data)} in a header")
    return data


def _text(name: bytes, at: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ValueError(f"has a name that is not UTF-8 at byte {at}") from None


def _shown(name: str) -> str:
    return repr(name)[:100]
