"""Timing of rivals side by side, one call at a time, so that a drifting clock or a neighbour hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], Any]


def compiled(rival: Any, mode: str | None = None) -> Any:
    """torch.compile for these shapes alone; its backward may be run again and again, as timing does.

    mode: of torch.compile, without CUDA graphs, which would overwrite the results that a backward waits with.
    """
    import torch._functorch.config as functorch

    functorch.donated_buffer = False  # else compiled backwards may refuse to run twice
    return torch.compile(rival, dynamic=False, mode=mode)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over all rounds: median, 20th and 80th percentile."""

    median: float
    p20: float
    p80: float

    @staticmethod
    def of(samples: list[float]) -> "Timing":
        """From one time per round."""
        if len(samples) == 1:
            return Timing(samples[0], samples[0], samples[0])
        cuts = statistics.quantiles(samples, n=5, method="inclusive")
        return Timing(statistics.median(samples), cuts[0], cuts[3])


def interleaved(
    rivals: Mapping[str, Work], device: torch.device, *, rounds: int, seconds: float, warm_up: int = 3
) -> dict[str, Timing]:
    """Times every rival once per round, in turn, until `rounds` are done or `seconds` have passed (at least 3 rounds).

    On CUDA by events, with the L2 cache overwritten before every call.
    """
    flush = torch.empty(1 << 26, dtype=torch.int32, device=device) if device.type == "cuda" else None
    for work in rivals.values():
        for _ in range(warm_up):
            work()
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, work in rivals.items():
            samples[name].append(_on_cuda(work, flush) if flush is not None else _on_cpu(work))
    return {name: Timing.of(times) for name, times in samples.items()}


def _on_cpu(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def _on_cuda(work: Work, flush: torch.Tensor) -> float:
    flush.zero_()
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    work()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after)


def peak_memory(work: Work, device: torch.device) -> float | None:
    """MiB that a call takes at most beyond what was there before it; None where the device does not count."""
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
