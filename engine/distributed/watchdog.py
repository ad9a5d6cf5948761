"""A watch over the ranks of a run: names the rank that hangs or is gone, prints where each rank is, ends all of them.

Every rank writes a sign of life once a second to the store at which the ranks met. Rank 0 reads those of all ranks, the
others that of rank 0. The sign says what the main thread is at, how many points of progress it has passed, and whether
it is inside torch.distributed: a rank whose signs stop is gone (a stopped process, a lost machine); ranks that pass no
point within their time limit hang, and the others wait for the one that has passed the fewest and waits for none.
"""

import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from pydantic import Field

from phys4d.engine import signals
from phys4d.engine.config import Config

MEETING = 600.0  # seconds within which all ranks must have started
_BEAT = 1.0  # seconds between two signs of life
_FRAMES = 12  # of a stack that are printed
_INNERMOST = 5  # of which one in torch.distributed means that a collective waits
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket")  # in errors of collectives


class Timeouts(Config):
    """Time limits of a run on several processes, in seconds; they end it so that --resume goes on.

    step: of a training step, but for the first of a session, in which kernels are compiled; and, on one process too, of
        the wait for its clips.
    other: of everything else between two points at which the ranks meet: start, loading, the first step, saving, a clip
        of the evaluation. Work of rank 0 alone (export, report) has no limit.
    silence: without a sign of life of a rank that has started, whatever it does.
    """

    step: float = Field(600.0, gt=0)
    other: float = Field(7200.0, gt=0)
    silence: float = Field(120.0, ge=3)


@dataclass
class Sign:
    """The last sign of life of a rank.

    count: of its signs; passed: of its points of progress; at: what it is at; over: seconds beyond its time limit;
    waits: whether it is inside torch.distributed; seen: when this rank saw the sign change (time.monotonic()).
    """

    count: int = -1
    passed: int = 0
    at: str = "its start"
    over: float = 0.0
    waits: bool = False
    seen: float = 0.0


def peer_is_gone(error: BaseException) -> bool:
    """Whether this is the error of a collective that another rank left by ending."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST)


def judge(rank: int, signs: Mapping[int, Sign], now: float, silence: float) -> str | None:
    """The line about the rank that is at fault, None for no fault.

    rank: that judges; rank 0 about all ranks, the others about the silence of rank 0.
    signs: the last ones, of itself and of those that it watches.
    now: time.monotonic().
    silence: see `Timeouts`.
    """
    for limit, began in ((MEETING, False), (silence, True)):
        late = sorted(r for r, sign in signs.items() if (sign.count >= 0) is began and now - sign.seen > limit)
        if late:
            last = f"no sign of life for {limit:.0f} s, last seen during {signs[late[0]].at}"
            return f"{_ranks(late)} gave {last}" if began else f"{_ranks(late)} did not start within {limit:.0f} s"
    if rank != 0 or all(sign.over <= 0 for sign in signs.values()):
        return None
    fewest = min(sign.passed for sign in signs.values())
    behind = sorted(r for r, sign in signs.items() if sign.passed == fewest)
    behind = [r for r in behind if not signs[r].waits] or behind
    where = signs[behind[0]].at
    if len(behind) == len(signs):
        return f"all ranks passed the time limit of {where}"
    return f"{_ranks(behind)} passed the time limit of {where}, and the others wait for it"


class Watchdog:
    """Watches the ranks of one process group from a thread of each.

    rank, world_size: of this process.
    timeouts: the limits.
    start: name of this start of the ranks (`meeting.meet`).
    """

    def __init__(self, rank: int, world_size: int, timeouts: Timeouts, start: str) -> None:
        self.rank, self.world_size, self.timeouts = rank, world_size, timeouts
        self._at, self._limit = "its start", MEETING
        self._broke = ""  # where an exception came from
        self._since, self._passed, self._count = time.monotonic(), 0, 0
        watched = range(world_size) if rank == 0 else range(1)
        now = time.monotonic()
        self._own = Sign(seen=now)
        self._signs = {other: Sign(seen=now) for other in watched if other != rank}
        self._main, self._stop = threading.main_thread().ident, threading.Event()
        self._store = _store(timeouts, start)
        self._reached, self._ending = now, threading.Lock()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._exchanging, self._waiting)]
        for thread in self._threads:
            thread.start()

    def passed(self) -> None:
        """A point of progress of the main thread."""
        self._since, self._passed = time.monotonic(), self._passed + 1

    @contextmanager
    def at(self, what: str, limit: float | None) -> Iterator[None]:
        """Context in which the main thread is at `what`, and passes a point at least every `limit` seconds (None: no
        limit).
        """
        before = self._at, self._limit
        self._at, self._limit = what, math.inf if limit is None else limit
        self.passed()
        try:
            yield
        except BaseException:
            self._broke = self._broke or what
            raise
        finally:
            self._at, self._limit = before
            self.passed()

    def lost(self, error: BaseException) -> str | None:
        """The line for an error of a collective whose peer is gone, None for other errors.

        It takes a few seconds, in which the signs of a live rank go on.
        """
        if not peer_is_gone(error):
            return None
        last = time.monotonic() + 1.5 * _BEAT  # until then the last sign of a rank that is gone by now may be read
        time.sleep(4 * _BEAT)
        silent = sorted(rank for rank, sign in self._signs.items() if sign.seen < last)
        return f"{_ranks(silent) if silent else 'another rank'} ended during {self._broke or self._at}"

    def stop(self) -> None:
        """Ends the watch of this rank alone."""
        self._stop.set()
        self._threads[1].join()
        self._threads[0].join(2 * _BEAT)  # it may wait for a store that is gone

    def _exchanging(self) -> None:
        while not self._stop.wait(_BEAT):
            with suppress(RuntimeError, ValueError, OSError):  # the process that holds the store is gone
                known = self._exchange()
                signs = self._signs | {self.rank: self._own}
                verdict = known or judge(self.rank, signs, time.monotonic(), self.timeouts.silence)
                self._reached = time.monotonic()
                if verdict is not None:
                    if known is None:
                        self._store.set("verdict", verdict)
                    self._end(verdict, says=known is None or self.rank == 0)

    def _waiting(self) -> None:
        """Ends this rank if the store does not answer: an exchange with a stopped process never returns."""
        while not self._stop.wait(_BEAT):
            silent = time.monotonic() - self._reached
            if silent > self.timeouts.silence:
                self._end(f"rank 0 cannot be reached for {silent:.0f} s, since {self._at}", says=True)

    def _end(self, verdict: str, *, says: bool) -> None:
        with self._ending:
            if self._stop.is_set():
                return
            self._print_stack()
            if self.rank == 0:  # the store may end with it: the others read the verdict first
                time.sleep(3 * _BEAT)
            elif not says:  # rank 0 speaks first: torchrun stops all ranks when one of them ends
                time.sleep(5 * _BEAT)
            if says:
                signals.say_end(verdict)
            signals.end_now()

    def _exchange(self) -> str | None:
        """Writes this rank's sign and reads the others; the verdict of another rank, if there is one."""
        self._count += 1
        now = time.monotonic()
        self._own = Sign(self._count, self._passed, self._at, now - self._since - self._limit, self._waits(), now)
        self._store.set(f"sign/{self.rank}", json.dumps(asdict(self._own)))
        if self._store.check(["verdict"]):
            return self._store.get("verdict").decode()
        for rank, seen in self._signs.items():
            if self._store.check([f"sign/{rank}"]):
                values = json.loads(self._store.get(f"sign/{rank}"))
                if values["count"] != seen.count:
                    self._signs[rank] = Sign(**values | {"seen": time.monotonic()})
        return None

    def _stack(self) -> list[traceback.FrameSummary]:
        """The innermost frames of the main thread, outermost first."""
        frame = sys._current_frames().get(self._main or 0)
        return [] if frame is None else list(traceback.extract_stack(frame))[-_FRAMES:]

    def _waits(self) -> bool:
        return any("/torch/distributed/" in frame.filename for frame in self._stack()[-_INNERMOST:])

    def _print_stack(self) -> None:
        stack = "".join(traceback.format_list(self._stack()))
        with suppress(OSError):
            os.write(2, f"rank {self.rank} during {self._at}:\n{stack}".encode(errors="backslashreplace"))


def _store(timeouts: Timeouts, start: str) -> Any:
    """A connection of its own to the store at which the ranks met, so that a thread may wait on it."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeouts.silence))
    return dist.PrefixStore(f"{start}/watchdog", store)


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
