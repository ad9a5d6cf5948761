"""Signals that request the end of the program: recorded during a training step, raised as Stopped everywhere else.

Slurm signals every process of a job and torchrun forwards signals, so that a process receives the same signal several
    times within a second: signals within GRACE seconds of the first one are the same request.

Python runs signal handlers in the main thread between two bytecode instructions, so not while that thread waits in C++
for other ranks. If a signal that must act immediately has waited PATIENCE seconds for its handler, another thread ends
the process.
"""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType, TracebackType
from typing import Any, Self

from phys4d.engine import environment
from phys4d.engine.errors import RankLost, Stopped

GRACE, PATIENCE = 2.0, 5.0  # seconds
_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WARNINGS = (signal.SIGUSR1,)  # Slurm's --signal=USR1@90: the job's time limit is near
SIGNALS = (*_REQUESTS, *_WARNINGS)

_active: "Stopping | None" = None


class Stopping:
    """Context that handles SIGTERM, SIGINT, SIGHUP and SIGUSR1 in the main thread; in other threads it does nothing.

    The first signal raises Stopped in the main thread, or is only recorded within `deferred`. A SIGTERM, SIGINT or
    SIGHUP at least GRACE seconds after the first one raises Stopped immediately, also within `deferred`. A SIGHUP that
    is ignored at the start (nohup) stays ignored.

    last: this is the last context of the process; afterwards the signals are ignored instead of restoring the previous
        handlers.

    Attributes: received, the first signal or None; kept, what remains after a stop (see `keeps`), "" for nothing.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.received: signal.Signals | None = None
        self.kept = ""
        self._last, self._ended, self._deferred = last, False, 0
        self._requested: float | None = None
        self._before: Stopping | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._waiting: socket.socket | None = None  # one byte for each signal since the handler last ran

    def __enter__(self) -> Self:
        global _active
        self._before, _active = _active, self
        if threading.current_thread() is threading.main_thread():
            self._start_watch()
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if number is not signal.SIGHUP or handler is not signal.SIG_IGN:
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def _start_watch(self) -> None:
        self._waiting, self._came = socket.socketpair()
        self._waiting.setblocking(False)
        self._came.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._came.fileno(), warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def end(self) -> None:
        """From here on signals are only recorded, since the work is finished."""
        self._ended = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._unread(take=True)
        first, now = self.received is None, time.monotonic()
        if first:
            self.received = signal.Signals(number)
        again = number in _REQUESTS and self._requested is not None and now - self._requested >= GRACE
        if number in _REQUESTS and self._requested is None:
            self._requested = now
        if not self._ended and (again or (first and not self._deferred)):
            raise Stopped(signal.Signals(number).name)

    def _unread(self, *, take: bool = False) -> bytes | None:
        """Signals that wait for the handler, None for none; b"" if the watch has ended."""
        assert self._waiting is not None
        try:
            return self._waiting.recv(4096, 0 if take else socket.MSG_PEEK)
        except BlockingIOError:
            return None

    def _watch(self) -> None:
        """Ends the process if the main thread does not handle a signal that must act immediately."""
        assert self._waiting is not None
        while True:
            select.select([self._waiting], [], [])
            since, again, few = time.monotonic(), None, 0
            while unread := self._unread():
                if not set(unread) & set(SIGNALS):  # signals of other handlers
                    self._unread(take=True)
                    continue
                now, requests = time.monotonic(), sum(byte in _REQUESTS for byte in unread)
                few = few or requests
                known = self._requested if self._requested is not None else since if requests > few else None
                if requests and known is not None and now - known >= GRACE:
                    again = again or now
                at_once = again if self._deferred else since
                if at_once is not None and now - at_once >= PATIENCE and not self._ended:
                    self._give_up(signal.Signals(next(byte for byte in unread if byte in SIGNALS)))
                time.sleep(0.1)
            if unread == b"":
                return

    def _give_up(self, number: signal.Signals) -> None:
        self.received = self.received or number
        with suppress(OSError):
            if environment.is_first():
                os.write(2, f"phys4d: {stopped_line(self, Stopped())}\n".encode())
        os._exit(exit_code(self))

    def leave(self) -> None:
        """Restores default handlers in a forked child, which must not react like its parent."""
        signal.set_wakeup_fd(-1)
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        self._ended = True
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN if self._last else handler or signal.SIG_DFL)
        if self._waiting is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._came.close()
            self._unread(take=True)
            self._watcher.join()
            self._waiting.close()
        _active = self._before


def _leave() -> None:
    global _active
    if _active is not None:
        _active.leave()
    _active = None


os.register_at_fork(after_in_child=_leave)


@contextmanager
def deferred() -> Iterator[Stopping]:
    """Context in which a signal is only recorded in `received`; a recorded signal raises Stopped at the end of the
    block.

    Outside of any Stopping it handles the signals itself for the duration of the block.
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
    """Context in which processes are started with signals blocked, until they unblock them.

    A signal to all processes of a job is then handled by the parent process only.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def keeps(what: str) -> None:
    """Sets what remains after a stop and how to resume: "FOLDER: ... are kept: ... goes on from there"."""
    if _active is not None:
        _active.kept = what


def say_end(line: str) -> None:
    """Prints, from any thread, why the process is about to end, and what is kept."""
    kept = _active.kept if _active is not None else ""
    with suppress(OSError):
        text = f"phys4d: {line}: {kept or 'what was being written is not kept'}\n"
        os.write(2, text.encode(errors="backslashreplace"))


def end_now() -> None:
    """Ends the process from any thread, with the exit code of a stop."""
    os._exit(3 if _active is not None and _active.kept else 130)


def stopped_line(stopping: Stopping, error: BaseException) -> str:
    """The one-line message of a command that a signal ended, directly or through `error`."""
    name = stopping.received.name if stopping.received is not None else "SIGINT"
    also = ""
    if not isinstance(error, KeyboardInterrupt):
        kind = "" if isinstance(error, RankLost) else f"{type(error).__name__}: "
        also = f" ({kind}{next(iter(str(error).splitlines()), '')})"
    return f"stopped by {name}{also}: {stopping.kept or 'what was being written is not kept'}"


def exit_code(stopping: Stopping) -> int:
    """3 if something is kept, else 130."""
    return 3 if stopping.kept else 130
