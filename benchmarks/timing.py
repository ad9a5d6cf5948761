"""Timing of rivals in turn, one call each per round, so that clock changes and other load affect all equally."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], Any]
# Types of devices that are timed with CUDA events. The stand-in for a GPU (`gpu_run.stand_in`) adds "cpu".
EVENTS = {"cuda"}
FLUSH = 1 << 26  # 32-bit numbers whose writing overwrites the L2 cache
LEARN = 3  # calls that measure the host time of a launch
SLOW, SLOW_MS = 10.0, 50.0  # a rival that takes this many times as long as the fastest, and this long: 3 rounds


@dataclass(frozen=True)
class Prepared:
    """A call that needs something made anew for every call, outside of its time: the graph of a backward pass.

    Attributes:
        before: makes it; it is freed after the call.
        work: the timed call, given what `before` returned.
    """

    before: Callable[[], Any]
    work: Callable[[Any], Any]

    def __call__(self) -> Any:
        return self.work(self.before())

    def ready(self) -> Work:
        """The timed call, with what it needs made now."""
        made = self.before()
        return lambda: self.work(made)


def compiled(rival: Any, mode: str | None = None) -> Any:
    """torch.compile with static shapes.

    mode: of torch.compile, one without CUDA graphs, which overwrite the results that a backward pass needs.
    """
    return torch.compile(rival, dynamic=False, mode=mode)


def on_gpu(device: torch.device) -> bool:
    """Whether rivals for GPUs take part on this device: on CUDA, and on its stand-in."""
    return device.type in EVENTS


def fresh(device: torch.device) -> None:
    """Forgets all that torch.compile compiled in this process, and frees cached memory: the state before every case.

    torch.compile stops after eight compilations of one function, and cases share functions.
    """
    torch.compiler.reset()
    freed(device)


def freed(device: torch.device) -> None:
    """Frees the memory of tensors that nothing refers to."""
    gc.collect()
    if on_gpu(device):
        torch.cuda.empty_cache()


def finish(device: torch.device) -> None:
    """Waits for the device; raises the error of an earlier call that a GPU reports late."""
    if on_gpu(device):
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over all rounds: median, 20th and 80th percentile; on CUDA also the host's median."""

    median: float
    p20: float
    p80: float
    host: float | None = None
    rounds: int = 1

    @staticmethod
    def of(samples: list[float], host: list[float] | None = None) -> "Timing":
        """From one time per round of the device and, on CUDA, of the host."""
        middle = statistics.median(host) if host else None
        if len(samples) == 1:
            return Timing(samples[0], samples[0], samples[0], middle)
        cuts = statistics.quantiles(samples, n=5, method="inclusive")
        return Timing(statistics.median(samples), cuts[0], cuts[3], middle, len(samples))


def interleaved(
    rivals: Mapping[str, Work], device: torch.device, *, rounds: int, seconds: float, warm_up: int = 3,
    failed: Callable[[str, Exception], None] | None = None, watch: Callable[[str], None] = lambda name: None,
) -> dict[str, Timing]:  # fmt: skip
    """Times every rival once per round, in turn, until `rounds` are done or `seconds` have passed (at least 3 rounds).

    On CUDA the times are of events. Before every call the L2 cache is overwritten, for longer than the host needs to
    launch the call, so that host time does not count as device time; it is returned separately, in `Timing.host`.
    A rival more than `SLOW` times as slow as the fastest takes part in 3 rounds.

    Args:
        rivals: the calls by name; of a `Prepared` call only the work is timed.
        device: where they run.
        rounds, seconds: the limits above.
        warm_up: calls before the first round.
        failed: given a rival's exception; that rival then takes no further part. None: the exception is raised.
        watch: given the name of a rival before each of its calls.
    """
    queue = _Queue(device) if on_gpu(device) else None
    samples: dict[str, list[float]] = {}
    hosts: dict[str, list[float]] = {}

    def attempt(name: str, call: Callable[[], None]) -> None:
        try:
            watch(name)
            call()
        except Exception as fault:
            if failed is None:
                raise
            samples.pop(name, None)
            failed(name, fault)

    def prepare(name: str) -> None:
        for _ in range(warm_up):
            rivals[name]()
        if queue is not None:
            queue.learn(name, rivals[name])
        samples[name], hosts[name] = [], []

    def sample(name: str) -> None:
        if queue is None:
            samples[name].append(_on_cpu(rivals[name]))
        else:
            taken, host = queue.time(name, rivals[name])
            samples[name].append(taken)
            hosts[name].append(host)

    for name in rivals:
        attempt(name, lambda name=name: prepare(name))  # type: ignore[misc]
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
        for name in _taking_part(samples, number):
            attempt(name, lambda name=name: sample(name))  # type: ignore[misc]
    return {name: Timing.of(found, hosts[name]) for name, found in samples.items()}


def _taking_part(samples: Mapping[str, list[float]], number: int) -> list[str]:
    """The rivals of a round: all in the first three rounds, then those that are not slow."""
    if number < 3 or not samples:
        return list(samples)
    medians = {name: statistics.median(found) for name, found in samples.items()}
    limit = max(SLOW * min(medians.values()), SLOW_MS)
    return [name for name, median in medians.items() if median <= limit]


def _ready(work: Work) -> Work:
    return work.ready() if isinstance(work, Prepared) else work


def _on_cpu(work: Work) -> float:
    call = _ready(work)
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


class _Queue:
    """Keeps a CUDA device busy, by overwriting its L2 cache, until a call is launched, and times the call."""

    def __init__(self, device: torch.device) -> None:
        self.flush = torch.empty(FLUSH, dtype=torch.int32, device=device)
        self.flush.zero_()
        self.each = self._timed(self.flush.zero_)[0]
        self.flushes: dict[str, int] = {}

    def learn(self, name: str, work: Work) -> None:
        """Measures the host time of a launch, and sets the number of flushes that cover it."""
        self.flushes[name] = flushes(min(self._timed(_ready(work))[1] for _ in range(LEARN)), self.each)

    def time(self, name: str, work: Work) -> tuple[float, float]:
        """Milliseconds of the device, and of the host until the call returns."""
        call = _ready(work)
        for _ in range(self.flushes[name]):
            self.flush.zero_()
        return self._timed(call)

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
    if not on_gpu(device):
        return None
    call = _ready(work)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    del result
    return peak
