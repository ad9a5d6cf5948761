"""Signals: recorded within `deferred`, raised elsewhere; signals within two seconds are one request."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from threading import Timer

import pytest

from phys4d.engine import signals
from phys4d.engine.errors import Stopped
from phys4d.engine.signals import GRACE, SIGNALS, Stopping, blocked, deferred, keeps, stopped_line

REPEATED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def get(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time returned to the handlers; the test advances it."""
    time = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test restores the previous handlers. The tests may run under nohup."""
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_once_within_the_grace_and_again_after_it(now: list[float], number: signal.Signals) -> None:
    with Stopping() as stopping:
        with pytest.raises(Stopped, match=number.name):
            get(number)
        now[0] += GRACE - 0.01
        get(number)
        get(signal.SIGTERM)
        now[0] += 0.02
        if number in REPEATED:
            with pytest.raises(Stopped):
                get(number)
        assert stopping.received is number


@pytest.mark.parametrize("number", SIGNALS)
def test_within_deferred_a_signal_is_noted_and_repeats_within_two_seconds_are_the_same_request(
    now: list[float], number: signal.Signals
) -> None:
    with Stopping(), pytest.raises(Stopped, match=number.name), deferred() as stopping:
        get(number)
        now[0] += 0.05
        get(number)
        get(signal.SIGINT)
        now[0] += 1.0
        get(signal.SIGTERM)
        assert stopping.received is number


@pytest.mark.parametrize("first", REPEATED)
@pytest.mark.parametrize("second", REPEATED)
def test_within_deferred_one_that_comes_later_acts_at_once(
    now: list[float], first: signal.Signals, second: signal.Signals
) -> None:
    reached = False
    with Stopping(), pytest.raises(Stopped, match=second.name), deferred():
        get(first)
        now[0] += GRACE
        get(second)
        reached = True
    assert not reached


def test_a_warning_that_the_time_ends_never_makes_the_request_after_it_act_at_once(now: list[float]) -> None:
    """Slurm sends SIGUSR1 and, 90 s later, SIGTERM: a long step still ends with its checkpoint."""
    with Stopping(), pytest.raises(Stopped), deferred():
        get(signal.SIGUSR1)
        now[0] += 90
        get(signal.SIGTERM)
        now[0] += 90
        get(signal.SIGUSR1)
        reached = True
    assert reached


def test_deferred_alone_handles_signals_for_as_long_as_it_lasts() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped), deferred() as stopping:
        assert signal.getsignal(signal.SIGTERM) == stopping._handle
        get(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_after_the_end_signals_are_noted_and_after_the_last_act_ignored() -> None:
    try:
        with Stopping(last=True) as stopping:
            stopping.end()
            get(signal.SIGTERM)
            assert stopping.received is signal.SIGTERM
        assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN] * 4
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            get(signal.SIGHUP)
            assert stopping.received is None
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_forked_child_ends_by_the_signal_as_it_would_have(in_child: Callable[[Callable[[], None]], int]) -> None:
    with Stopping() as stopping, deferred():
        assert in_child(lambda: get(signal.SIGTERM)) == -signal.SIGTERM
        assert stopping.received is None


def test_a_process_started_with_signals_blocked_does_not_get_them(
    in_child: Callable[[Callable[[], None]], int],
) -> None:
    with Stopping() as stopping, deferred(), blocked():
        assert in_child(lambda: [get(number) for number in SIGNALS].clear()) == 0
        assert stopping.received is None
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def stuck(after: list[float], kept: str, defers: bool) -> None:
    """Waits in C for ever, as for a rank that has gone, and gets a SIGTERM after each of these seconds."""
    signals.GRACE, signals.PATIENCE = 0.3, 0.3
    with Stopping(), deferred() if defers else nullcontext():
        keeps(kept)
        for seconds in after:
            Timer(seconds, get, [signal.SIGTERM]).start()
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)


@pytest.mark.parametrize(
    ("after", "kept", "defers", "code", "line"),
    [
        ([0.2], "", False, 130, "what was being written is not kept"),
        ([0.2], "out: clips are kept", False, 3, "out: clips are kept"),
        ([0.2, 0.7], "out: clips are kept", True, 3, "out: clips are kept"),
    ],
)
def test_a_process_that_waits_outside_of_python_ends_too(
    in_child: Callable[[Callable[[], None]], int], capfd: pytest.CaptureFixture[str],
    after: list[float], kept: str, defers: bool, code: int, line: str,
) -> None:  # fmt: skip
    started = time.monotonic()
    assert in_child(lambda: stuck(after, kept, defers)) == code
    assert capfd.readouterr().err == f"phys4d: stopped by SIGTERM: {line}\n"
    assert time.monotonic() - started > after[-1] + 0.25


def test_the_watch_does_not_end_a_process_that_is_only_slow(in_child: Callable[[Callable[[], None]], int]) -> None:
    """One signal while a step computes outside of Python, and signals of other handlers: the step goes on."""

    def slow() -> None:
        signals.GRACE, signals.PATIENCE = 0.2, 0.2
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        libc = ctypes.CDLL(None)
        with pytest.raises(Stopped), deferred() as stopping:
            get_from_c = libc.getpid(), int(signal.SIGTERM)
            Timer(0.05, libc.kill, get_from_c).start()
            until = time.monotonic() + 0.8
            while time.monotonic() < until:
                libc.usleep(10_000)
        assert stopping.received is signal.SIGTERM

    assert in_child(slow) == 0


def test_the_line_says_what_is_kept_and_what_else_went_wrong() -> None:
    with Stopping() as stopping:
        with pytest.raises(Stopped) as caught:
            get(signal.SIGTERM)
        assert stopped_line(stopping, caught.value) == "stopped by SIGTERM: what was being written is not kept"
        keeps("out: clips are kept: the same command goes on")
        line = "stopped by SIGTERM (RuntimeError: peer is gone): out: clips are kept: the same command goes on"
        assert stopped_line(stopping, RuntimeError("peer is gone\nat line 3")) == line
    keeps("nothing listens")
