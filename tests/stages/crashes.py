"""A process that is killed before its n-th operation on files, on a disk that loses what was not synced.

Counted are the calls of Python that make, rename, remove or sync a file or a folder. After the kill every file that was
written since it was last synced is cut to the length that it had then, as after a loss of power. Links are not used.
"""

import builtins
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

COUNTED = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "remove", "truncate", "ftruncate")


def killed_at(moment: int, action: Callable[[], object], root: Path) -> bool:
    """Runs `action` in a fork that gets SIGKILL before operation number `moment`; whether it came to that.

    root: the folder that is on the disk which loses data.
    """
    log, synced = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(log)
        status = 1
        try:
            _count(moment, synced)
            action()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(synced)
    with open(log, "rb") as lines:
        kept = _synced(lines)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"operation {moment}: the process ended with {code}"
    if code == -signal.SIGKILL:
        _drop_unsynced(root, kept)
    return code != 0


class RankLogs:
    """The operations of several processes on one disk, which each of them writes down in a folder outside of it."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self._files = [folder / f"operations-{rank}" for rank in range(ranks)]

    def count(self, rank: int, moment: int | None) -> None:
        """Counts the operations of this process, which gets SIGKILL before operation number `moment`; None: never."""
        _count(moment, os.open(self._files[rank], os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    def operations(self) -> list[int]:
        """How many operations each rank made."""
        return [file.read_bytes().splitlines().count(b"") for file in self._files]

    def drop_unsynced(self, root: Path) -> None:
        """What all of them wrote below `root` and none of them synced since then is lost; they must have ended."""
        kept = [_synced(file.read_bytes().splitlines()) for file in self._files]
        _drop_unsynced(root, {inode: max((each[inode] for each in kept if inode in each), key=itemgetter(1))
                              for inode in set().union(*kept)})  # fmt: skip


def _synced(lines: Iterable[bytes]) -> dict[int, tuple[int, int]]:
    """Inode -> size and time of change when it was last synced."""
    return {inode: (size, time) for inode, size, time in (map(int, line.split()) for line in lines if line.strip())}


def _count(moment: int | None, log: int) -> None:
    """log: takes an empty line for every operation, and inode, size and time of change of a file that was synced."""
    calls, fsync, write = [0], os.fsync, os.write

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if calls[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1
            write(log, b"\n")
            return real(*arguments, **options)

        return call

    def recorded_fsync(file: Any) -> None:
        fsync(file)
        status = os.fstat(file if isinstance(file, int) else file.fileno())
        write(log, f"{status.st_ino} {status.st_size} {status.st_mtime_ns}\n".encode())

    def writes(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        deadly = counted(real)

        def call(path: Any, mode: Any = "r", *arguments: Any, **options: Any) -> Any:
            new = bool(mode & os.O_CREAT) if name == "os" else bool(set(str(mode)) & set("wax+"))
            return (deadly if new and not str(path).startswith(("/dev/", "/proc/")) else real)(
                path, mode, *arguments, **options
            )

        return call

    for name in COUNTED:
        setattr(os, name, counted(recorded_fsync if name == "fsync" else getattr(os, name)))
    os.open = writes("os", os.open)  # type: ignore[assignment]
    builtins.open = io.open = writes("io", io.open)  # type: ignore[assignment]


def _drop_unsynced(root: Path, kept: dict[int, tuple[int, int]]) -> None:
    """kept: inode -> size and time of change when it was last synced."""
    for path in root.rglob("*"):
        if path.is_file():
            status, (size, changed) = path.stat(), kept.get(path.stat().st_ino, (0, 0))
            if (status.st_size, status.st_mtime_ns) != (size, changed):
                os.truncate(path, min(size, status.st_size))
