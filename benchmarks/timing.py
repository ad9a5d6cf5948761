"""Timing of rivals in turn, one call each per round, so that clock changes and other load affect all equally."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], Any]


def compiled(rival: Any, mode: str | None = None) -> Any:
    """torch.compile with static shapes, set up so that timing may run a backward pass several times.

    mode: of torch.compile, one without CUDA graphs, which overwrite the results that a backward pass needs.
    """
    import torch._functorch.config as functorch

    functorch.donated_buffer = False  # with it a compiled backward pass may refuse to run twice
    return torch.compile(rival, dynamic=False, mode=mode)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over all rounds: median, 20th and 80th percentile; on CUDA also the host's median."""

    median: float
    p20: float
    p80: float
    host: float | None = None

    @staticmethod
    def of(samples: list[float], host: list[float] | None = None) -> "Timing":
        """From one time per round of the device and, on CUDA, of the host."""
        middle = statistics.median(host) if host else None
        if len(samples) == 1:
            return Timing(samples[0], samples[0], samples[0], middle)
        cuts = statistics.quantiles(samples, n=5, method="inclusive")
        return Timing(statistics.median(samples), cuts[0], cuts[3], middle)


def interleaved(
    rivals: Mapping[str, Work], device: torch.device, *, rounds: int, seconds: float, warm_up: int = 3
) -> dict[str, Timing]:
    """Times every rival once per round, in turn, until `rounds` are done or `seconds` have passed (at least 3 rounds).

    On CUDA the times are of events. Before every call the L2 cache is overwritten, for longer than the host needs to
    launch the call, so that host time does not count as device time; it is returned separately, in `Timing.host`.
    """
    queue = _Queue(device) if device.type == "cuda" else None
    for name, work in rivals.items():
        for _ in range(warm_up):
            work()
        if queue is not None:
            queue.learn(name, work)
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    hosts: dict[str, list[float]] = {name: [] for name in rivals}
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, work in rivals.items():
            if queue is None:
                samples[name].append(_on_cpu(work))
            else:
                taken, host = queue.time(name, work)
                samples[name].append(taken)
                hosts[name].append(host)
    return {name: Timing.of(samples[name], hosts[name]) for name in rivals}


def _on_cpu(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


class _Queue:
    """Keeps a CUDA device busy, by overwriting its L2 cache, until a call is launched, and times the call."""

    def __init__(self, device: torch.device) -> None:
        self.flush = torch.empty(1 << 26, dtype=torch.int32, device=device)
        self.flush.zero_()
        self.each = self._timed(self.flush.zero_)[0]
        self.flushes: dict[str, int] = {}

    def learn(self, name: str, work: Work) -> None:
        """Measures the host time of a launch, and sets the number of flushes that cover it."""
        self.flushes[name] = flushes(min(self._timed(work)[1] for _ in range(3)), self.each)

    def time(self, name: str, work: Work) -> tuple[float, float]:
        """Milliseconds of the device, and of the host until the call returns."""
        for _ in range(self.flushes[name]):
            self.flush.zero_()
        return self._timed(work)

    def _timed(self, work: Work) -> tuple[float, float]:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        begin = time.perf_counter()
        work()
        host = (time.perf_counter() - begin) * 1e3
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after), host


def flushes(host: float, each: float) -> int:
    """The number of flushes of `each` ms on the device that take twice the `host` ms of a launch.

    At most 100: no number of flushes covers a call that waits for the device.
    """
    return min(100, 1 + math.ceil(2 * host / max(each, 1e-3)))


def peak_memory(work: Work, device: torch.device) -> float | None:
    """MiB of the peak of allocated memory during a call, minus the memory before it; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = work()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    del result
    return peak
