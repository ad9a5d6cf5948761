"""Errors of the machine and its file systems, distinguished from errors in the data: one line each, with what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from phys4d.engine.errors import UserError
from phys4d.engine.storage import disk_fault

# Error numbers of a missing file or an impossible name, which are not errors of the machine.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
_CHECK = "check the disk or its connection (dmesg), then run the same command again"
_REMOTE = "check the URL and the network, then run the same command again"
_ADVICE = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs or raise fs.file-max",
    errno.ENOMEM: "free memory or use a machine with more",
    errno.EACCES: "you need the right to read it",
    errno.EPERM: "you need the right to read it",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV), _CHECK),
    **dict.fromkeys((errno.ENXIO, errno.EREMOTEIO, errno.ECONNRESET, errno.ESHUTDOWN), _CHECK),
}


class RemoteError(OSError):
    """A server or object store could not be reached, or did not answer as it should."""


class MachineFault(UserError):
    """The machine, a file system or a server failed while accessing a file; the file's content may be sound.

    The message names the file (`path`: its path or URL, and more), the system's error and what to do.
    """

    def __init__(self, path: object, error: OSError) -> None:
        what, advice = "in this machine or its file system", _ADVICE.get(error.errno or 0, _CHECK)
        if isinstance(error, RemoteError):
            what, advice = "in the server or the connection to it", _REMOTE
        super().__init__(f"{path}: {error.strerror}: the fault is {what}, not in the data: {advice}")


def fault_line(error: OSError) -> str | None:
    """One line for an OSError caused by a full or read-only disk or by the machine; None for other errors."""
    if (fault := disk_fault(error)) is not None:
        return f"{fault}: make room, or choose a place that you may write"
    if error.errno not in _ADVICE:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}: {_ADVICE[error.errno]}"


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Context that converts errors of the machine or of a server while `path` is read to MachineFault, whose message
    begins with it; other errors pass.
    """
    try:
        yield
    except MemoryError:
        raise MachineFault(path, OSError(errno.ENOMEM, "Cannot allocate memory")) from None
    except OSError as error:
        if error.errno is None or error.errno in ABSENT:  # libraries raise OSError without a number for bad content
            raise
        raise MachineFault(path, error) from None
