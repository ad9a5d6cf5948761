"""Small files of a run, on a disk that may be full or not ours: replaced whole, read back, and what the disk did."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from phys4d.engine.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def replace_text(path: Path, text: str) -> None:
    """Writes a small text file in UTF-8, as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a small file so that a kill leaves either the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run. UserError where the file does not hold one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}): remove it") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object: remove it")
    return found


class Appended:
    """A file that grows at its end, unbuffered: `write` puts all of its bytes there or raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed in `close`)

    def write(self, data: bytes) -> None:
        """Appends the bytes; a disk that takes only a part of them raises at the rest."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def disk_fault(error: BaseException) -> str | None:
    """What a full or closed disk did ("No space left on device", "Permission denied"), or None for other errors.

    Libraries hide the system's error behind their own, so the whole chain of causes is searched.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        this = queue.pop()
        if this is None or id(this) in seen:
            continue
        seen.add(id(this))
        if isinstance(this, OSError) and this.errno in (*_FULL, *_CLOSED):
            return f"{this.filename}: {this.strerror}" if this.filename else f"{this.strerror}"
        queue += [this.__cause__, this.__context__, *_gathered(this)]
    return None


def _gathered(error: BaseException) -> list[BaseException]:
    """The errors of the single ranks that torch's CheckpointException carries."""
    return [failure for failure, _ in getattr(error, "failures", {}).values()]
