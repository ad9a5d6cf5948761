"""The lock on a run folder: the kernel's, so that it ends with the process that holds it, however that ends."""

import fcntl
import time
from pathlib import Path
from typing import IO

from phys4d.engine.errors import UserError
from phys4d.engine.storage import without_links

_POLL = 0.2  # seconds between two attempts


def hold(folder: Path, patience: float) -> IO[str]:
    """The lock of a folder, held until the returned file is closed; waits up to `patience` seconds for it.

    Raises UserError if another process holds it for longer.
    """
    end = time.monotonic() + patience
    lock = open(folder / ".lock", "w", opener=without_links)  # noqa: SIM115 (the caller closes it)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= end:
                lock.close()
                raise UserError(f"{folder}: another process is using this folder: wait or choose another") from None
        time.sleep(_POLL)
