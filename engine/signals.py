"""Signals that ask the program to end: noted while a step of training runs, raised as Stopped everywhere else.

Slurm signals every process of a job and torchrun forwards what it gets, so a process gets the same signal several
times within a second: signals within GRACE seconds of the first one are the same request.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any, Self

from phys4d.engine.errors import Stopped

GRACE = 2.0  # seconds
_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WARNINGS = (signal.SIGUSR1,)  # Slurm's --signal=USR1@90: the time of the job ends soon
SIGNALS = (*_REQUESTS, *_WARNINGS)

_active: "Stopping | None" = None


class Stopping:
    """Handles SIGTERM, SIGINT, SIGHUP and SIGUSR1 from `with` to its end, in the main thread (elsewhere not at all).

    The first signal raises Stopped in the main thread, or is only noted within `deferred`. One of the first three that
    comes GRACE seconds after the first of them raises Stopped at once, also within `deferred`. A SIGHUP that is
    ignored at the start (nohup) stays ignored. last: this is the end of the process, so that afterwards the signals
    are ignored; else the handlers that were there before come back.

    Attributes: received, the first signal or None; kept, what a stop leaves behind (see `keeps`), "" for nothing.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.received: signal.Signals | None = None
        self.kept = ""
        self._last, self._ended, self._deferred = last, False, 0
        self._requested: float | None = None
        self._process = os.getpid()
        self._before: Stopping | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        global _active
        self._before, _active = _active, self
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if number is not signal.SIGHUP or handler is not signal.SIG_IGN:
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def end(self) -> None:
        """From here on signals are only noted: the work is over."""
        self._ended = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child: what the parent meant to do is not its work
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first, now = self.received is None, time.monotonic()
        if first:
            self.received = signal.Signals(number)
        again = number in _REQUESTS and self._requested is not None and now - self._requested >= GRACE
        if number in _REQUESTS and self._requested is None:
            self._requested = now
        if not self._ended and (again or (first and not self._deferred)):
            raise Stopped(signal.Signals(number).name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        self._ended = True
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN if self._last else handler or signal.SIG_DFL)
        _active = self._before


@contextmanager
def deferred() -> Iterator[Stopping]:
    """Within it a signal is only noted in `received`; a noted one raises Stopped at the end of the block.

    Outside of any Stopping it handles the signals itself, for as long as the block lasts.
    """
    with nullcontext(_active) if _active is not None else Stopping() as stopping:
        stopping._deferred += 1
        try:
            yield stopping
        finally:
            stopping._deferred -= 1
        if stopping.received is not None:
            raise Stopped(stopping.received.name)


@contextmanager
def blocked() -> Iterator[None]:
    """Signals wait until its end, and processes that are started within never get them unless they unblock them.

    A signal to all processes of a job is then for the one that started the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def keeps(what: str) -> None:
    """Says what a stop from here on leaves behind and how to go on: "FOLDER: ... are kept: ... goes on from there"."""
    if _active is not None:
        _active.kept = what


def stopped_line(stopping: Stopping, error: BaseException) -> str:
    """The one line of a command that `error` ended after, or because of, a signal."""
    name = stopping.received.name if stopping.received is not None else "SIGINT"
    also = ""
    if not isinstance(error, KeyboardInterrupt):
        also = f" ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
    return f"stopped by {name}{also}: {stopping.kept or 'what was being written is not kept'}"
