"""How worker processes of a simulation start and end."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from threading import Thread, Timer
from types import FrameType

_SECONDS_TO_END = 5.0

# llvmpipe counts the threads in addition to the caller's.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}


def end_with_parent() -> None:
    """Initialises a worker: it exits when its parent process dies, instead of waiting for work forever.

    A signal to all processes of a job is handled by the parent, which shuts the pool down in order; the parent starts
    workers with signals blocked. SIGTERM is unblocked, since a broken pool terminates its workers by it.
    """
    signal.signal(signal.SIGTERM, _end_later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _end_later(number: int, frame: FrameType | None) -> None:
    """Exits this process if it still runs after _SECONDS_TO_END."""
    timer = Timer(_SECONDS_TO_END, os._exit, (1,))
    timer.daemon = True
    timer.start()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Context in which processes are started with one thread for BLAS and for OpenGL's software renderer."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
