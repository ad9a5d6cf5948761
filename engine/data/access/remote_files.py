"""Reads parts of remote files: a request for each part, a time limit, a few attempts, then one line.

http and https are read by httpx, since a server that ignores ranges would send the whole file, of which no more than
the part is read here; other schemes by fsspec's file systems.
"""

import errno
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from phys4d.engine.data.access.transports import FsspecTransport, HttpTransport, Transient
from phys4d.engine.faults import RemoteError
from phys4d.engine.location import Remote

PAUSES = (0.5, 2.0, 8.0)
"""Seconds before the second and each later attempt."""
TIMEOUT, BYTES_PER_SECOND = 60.0, 256 << 10
"""A request may take so many seconds, and one more for each so many bytes."""
_RESULT = TypeVar("_RESULT")


class _Transport(Protocol):
    def size(self, url: str, timeout: float) -> int: ...

    def read(self, url: str, start: int, end: int, timeout: float) -> bytes: ...


class RemoteFiles:
    """Reads from remote files by position; may be used by many threads, after a fork, or pickled."""

    def __init__(self) -> None:
        self._sizes: dict[Remote, int] = {}

    def size(self, path: Remote) -> int:
        """Size of the file in bytes, asked for once. Raises OSError as `read` does."""
        if path not in self._sizes:
            self._sizes[path] = _attempts(path, lambda by: by.size(path.url, TIMEOUT))
        return self._sizes[path]

    def read(self, path: Remote, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, fewer at the end of the file.

        Raises OSError: ENOENT for a file that is not there, EACCES for one that may not be read, `RemoteError` if the
        server cannot be reached or does not answer as it should; UserError if a library for the scheme is absent.
        """
        if size <= 0:
            return b""
        timeout = TIMEOUT + size / BYTES_PER_SECOND
        try:
            return _attempts(path, lambda by: by.read(path.url, offset, offset + size, timeout))
        except RemoteError:
            if offset < self.size(path):  # else stores refuse the range, each in its own way
                raise
            return b""


def _attempts(path: Remote, action: Callable[[_Transport], _RESULT]) -> _RESULT:
    transport: _Transport = HttpTransport() if path.scheme in ("http", "https") else FsspecTransport(path.scheme)
    for pause in (*PAUSES, None):
        try:
            return action(transport)
        except Transient as reason:
            if pause is None:
                raise RemoteError(errno.EREMOTEIO, f"{reason} ({len(PAUSES) + 1} attempts)", path.url) from None
        time.sleep(pause)
    raise AssertionError
