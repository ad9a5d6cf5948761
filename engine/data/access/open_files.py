"""A pool of open files: bounded, shared by threads, usable after a fork and in a pickle."""

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakSet

OPEN_FILES = 32  # of one dataset; a run uses a few datasets, and a common limit is 256 files per process
_RESULT = TypeVar("_RESULT")


def open_regular(path: Path) -> int:
    """Descriptor of a regular file, opened for reading without waiting.

    Links are followed, also out of the folder: the cache of a download and shards on several disks consist of them, and
    what is read of a file is compared with its digest.

    Raises OSError: of the system, or with EINVAL for a pipe, device or socket, which could block or never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


class _Handle:
    """An open file, the number of threads that are reading from it, and whether new readers may use it."""

    __slots__ = ("descriptor", "offered", "readers")

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.readers, self.offered = descriptor, 0, True


class OpenFiles:
    """Reads from files by position and keeps the `limit` most recently used files open.

    More than `limit` files are open only while they are being read. A file with a stale handle (NFS) is reopened once;
    if the process or the system has no free handles, idle files are closed first.
    """

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self.limit = limit
        self._handles: OrderedDict[Path, _Handle] = OrderedDict()
        self._lock = Lock()
        _EVERY.add(self)

    def size(self, path: Path) -> int:
        """Size of the file in bytes. Raises OSError of the system."""
        return self._use(path, lambda descriptor: os.fstat(descriptor).st_size)

    def read(self, path: Path, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, fewer at the end of the file. Raises OSError of the system."""
        return self._use(path, lambda descriptor: _read(descriptor, size, offset))

    def _use(self, path: Path, action: Callable[[int], _RESULT]) -> _RESULT:
        try:
            return self._once(path, action)
        except OSError as error:
            if error.errno == errno.ESTALE:
                self._forget(path)
            elif error.errno in (errno.EMFILE, errno.ENFILE):
                with self._lock:
                    self._close_down_to(0)
            else:
                raise
            return self._once(path, action)

    def _once(self, path: Path, action: Callable[[int], _RESULT]) -> _RESULT:
        handle = self._take(path)
        try:
            return action(handle.descriptor)
        finally:
            with self._lock:
                handle.readers -= 1
                if not handle.offered and not handle.readers:
                    os.close(handle.descriptor)
                self._close_down_to(self.limit)

    def _take(self, path: Path) -> _Handle:
        with self._lock:
            handle = self._handles.get(path)
            if handle is not None:
                self._handles.move_to_end(path)
                handle.readers += 1
                return handle
        descriptor = open_regular(path)  # without the lock, since a network disk may be slow
        with self._lock:
            handle = self._handles.get(path)
            if handle is None:
                handle = self._handles[path] = _Handle(descriptor)
            else:  # another thread has opened it meanwhile
                os.close(descriptor)
            handle.readers += 1
            return handle

    def _close_down_to(self, most: int) -> None:
        """Closes idle files, the least recently used first, until at most `most` files are open."""
        surplus = len(self._handles) - most
        idle = [path for path, handle in self._handles.items() if not handle.readers] if surplus > 0 else []
        for path in idle[:surplus]:
            os.close(self._handles.pop(path).descriptor)

    def _forget(self, path: Path) -> None:
        with self._lock:
            handle = self._handles.pop(path, None)
            if handle is not None:
                handle.offered = False
                if not handle.readers:
                    os.close(handle.descriptor)

    def _after_fork(self) -> None:
        """Resets lock and reader counts in a forked child, where no other thread exists."""
        self._lock = Lock()
        for handle in self._handles.values():
            handle.readers = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        for handle in getattr(self, "_handles", {}).values():
            os.close(handle.descriptor)


_EVERY: WeakSet[OpenFiles] = WeakSet()


def _renew() -> None:
    for files in _EVERY:
        files._after_fork()


os.register_at_fork(after_in_child=_renew)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Reads until `size` bytes are read or the file ends; one pread may return less (at most 2 GiB, or any part on
    NFS).
    """
    size = max(0, min(size, os.fstat(descriptor).st_size - offset))
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data
