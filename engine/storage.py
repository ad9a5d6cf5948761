"""Files of a run on the disk: atomic replacement, syncs, reading, appending, and full or read-only disks."""

import errno
import os
from pathlib import Path

from phys4d.engine.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def replace_text(path: Path, text: str) -> None:
    """Writes a small text file in UTF-8 like `replace_bytes`."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a small file atomically: a kill leaves either the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb", opener=without_links) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def finish(path: Path, like: Path) -> None:
    """Syncs a file or folder. A file gets the permissions of `like`, one that was opened here: those that the umask
    leaves, where safetensors' files can be read by their owner alone.
    """
    if path.is_file() and not path.is_symlink():
        path.chmod(like.stat().st_mode & 0o777)
    sync(path)


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def without_links(path: str, flags: int) -> int:
    """Opens a file for `open(..., opener=without_links)`: UserError for a link, which may lead to any file."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: is a link, where a file of this program is expected: remove it") from None
        raise


class AppendOnlyFile:
    """An unbuffered file opened for appending; `write` appends all bytes or raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0, opener=without_links)  # noqa: SIM115 (closed in `close`)

    def write(self, data: bytes) -> None:
        """Appends the bytes; raises OSError if the disk accepts only a part of them."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        """Waits until what was appended is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def disk_fault(error: BaseException) -> str | None:
    """The message of a full or read-only disk ("No space left on device", "Permission denied"), None for other errors.

    Libraries wrap the system's error, so the whole chain of causes is searched.
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


def check_stopped(error: BaseException) -> None:
    """Raises the exception of a signal (`Stopped`) that torch wrapped in its own, from this rank or another."""
    for failure in _gathered(error):
        if isinstance(failure, KeyboardInterrupt):
            raise failure from None


def _gathered(error: BaseException) -> list[BaseException]:
    """The errors of single ranks in torch's CheckpointException."""
    return [failure for failure, _ in getattr(error, "failures", {}).values()]
