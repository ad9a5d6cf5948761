"""Writing to a disk that may be full or not ours: files replaced whole, and the one line that such a disk earns."""

import errno
import os
from pathlib import Path

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
