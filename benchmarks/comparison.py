"""The rows of a comparison: every implementation of a case, forward and backward, timed in turn.

The failure of one implementation costs only its own rows: an exception, a lack of memory, or a fallback from compiled
to uncompiled code is a row with the reason. A fault that ends all work on the device in this process, such as an
illegal address, raises `DeviceLost`.
"""

import contextlib
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from phys4d.benchmarks.timing import Timing, Work, finish, freed, fresh, interleaved, peak_memory

# Part of a GPU's name -> (TFLOP/s of dense 16-bit products, TB/s) that good kernels are known to sustain on it.
SUSTAINED = {"H200": (790.0, 4.3), "H100": (790.0, 2.9)}
_UNITS = {"bytes": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}


class DeviceLost(RuntimeError):
    """The device accepts no more work from this process."""


@dataclass(frozen=True)
class Runner:
    """One implementation of a case, ready to be timed.

    Attributes:
        works: "forward", "backward" or another part -> one call of it; a part that it cannot compute is absent.
        verdict: computes its largest error against the float64 result, in the unit of the result, and whether two runs
            are bit-equal.
    """

    works: Mapping[str, Work]
    verdict: Callable[[], tuple[float, bool]]


@dataclass(frozen=True)
class Needed:
    """The FLOPs and bytes that a part needs at least, and its floor in milliseconds; None where not known."""

    flops: float | None = None
    bytes: float | None = None
    floor_ms: float | None = None


@dataclass(frozen=True)
class Effort:
    """How long a comparison may take, and which implementations it leaves out.

    Attributes:
        rounds, seconds: the limits of each part of all implementations together, see `timing.interleaved`.
        warm_up: calls of each part before the first round.
        wanted: the only names that take part; None: all.
        without: names that take no part, and the reason that their rows give.
        watch: given the name of an implementation before each of its calls.
    """

    rounds: int = 50
    seconds: float = 20.0
    warm_up: int = 3
    wanted: tuple[str, ...] | None = None
    without: Mapping[str, str] = field(default_factory=dict)
    watch: Callable[[str], None] = lambda name: None

    def takes(self, name: str) -> bool:
        """Whether an implementation is wanted; one that is left out with a reason counts as wanted."""
        return self.wanted is None or name in self.wanted


QUICK = Effort(rounds=10, seconds=1.0)


def sustained(device: torch.device) -> tuple[float, float] | None:
    """TFLOP/s and TB/s that good kernels sustain on this GPU; None on a CPU, and on a GPU that `SUSTAINED` lacks."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rates for known, rates in SUSTAINED.items() if known in name), None)


def refused(case: str, name: str, fault: Exception | str) -> dict[str, Any]:
    """The row of an implementation that cannot compute the case, with the reason, or its exception, in one line.

    For a lack of memory the reason is the number of MiB that it asked for, also in `wanted_mb`.
    """
    row = {"case": case, "backend": name}
    if isinstance(fault, str):
        return row | {"refused": fault}
    wanted = wanted_mib(fault)
    if wanted is not None:
        return row | {"refused": f"out of memory: it asked for {wanted:,.0f} MiB more", "wanted_mb": wanted}
    return row | {"refused": " ".join(f"{type(fault).__name__}: {str(fault)[:200]}".split())}


def wanted_mib(fault: Exception) -> float | None:
    """MiB that an allocation asked for in vain, None for an exception that is no lack of memory."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", str(fault))
    return float(found[1]) * _UNITS[found[2]] if found else None


def compare(
    case: str, makers: Mapping[str, Callable[[], Runner]], device: torch.device, *, effort: Effort,
    needed: Callable[[str, str], Needed],
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per part and implementation: times, share of the floor, memory, error, and whether runs are bit-equal.

    `compile_s` is by how much the first calls of all parts of an implementation took longer than the second.

    Args:
        case: name of the case.
        makers: functions that make the implementations, by name.
        device: where they run.
        effort: rounds and seconds, and the implementations that are left out.
        needed: (part, name of an implementation) -> what that part needs.

    Raises:
        DeviceLost: a fault after which the device accepts no more work from this process.
    """
    rows: list[dict[str, Any]] = []
    runners: dict[str, Runner] = {}
    known: dict[str, dict[str, Any]] = {}

    def failed(name: str, fault: Exception) -> None:
        rows.append(refused(case, name, fault))
        runners.pop(name, None)

    fresh(device)
    with no_fallback():
        for name in filter(effort.takes, makers):
            if name in effort.without:
                rows.append(refused(case, name, effort.without[name]))
                continue
            try:
                effort.watch(name)
                runner = makers[name]()
                known[name] = _examined(runner, device)
                runners[name] = runner
            except Exception as fault:  # an implementation may fail in its own way; its row holds the exception
                failed(name, fault)
            finish_or_lose(device, name)
            freed(device)
        for part in dict.fromkeys(part for runner in runners.values() for part in runner.works):
            rows += _timed(case, part, runners, known, device, effort, needed, failed)
    runners.clear()
    fresh(device)
    return rows


def _examined(runner: Runner, device: torch.device) -> dict[str, Any]:
    """Error, bit-equality and seconds of compiling of an implementation that runs for the first time."""
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        for work in runner.works.values():
            work()
        finish(device)
        seconds.append(time.perf_counter() - begin)
    error, same = runner.verdict()
    return {"error": error, "deterministic": same, "compile_s": max(0.0, seconds[0] - seconds[1])}


def _timed(
    case: str, part: str, runners: Mapping[str, Runner], known: Mapping[str, dict[str, Any]], device: torch.device,
    effort: Effort, needed: Callable[[str, str], Needed], failed: Callable[[str, Exception], None],
) -> list[dict[str, Any]]:  # fmt: skip
    works = {name: runner.works[part] for name, runner in runners.items() if part in runner.works}

    def lost_or_failed(name: str, fault: Exception) -> None:
        finish_or_lose(device, name)
        failed(name, fault)
        freed(device)

    timings = interleaved(
        works, device, rounds=effort.rounds, seconds=effort.seconds, warm_up=effort.warm_up, failed=lost_or_failed,
        watch=effort.watch,
    )  # fmt: skip
    rows = []
    for name, timing in timings.items():
        try:
            effort.watch(name)
            peak = peak_memory(works[name], device)
        except Exception as fault:
            lost_or_failed(name, fault)
        else:
            rows.append(_row(case, name, part, timing, needed(part, name)) | {"peak_mb": peak} | known[name])
    return rows


def _row(case: str, name: str, part: str, timing: Timing, least: Needed) -> dict[str, Any]:
    return {
        "case": case, "backend": name, "part": part, "ms": timing.median, "ms_p20": timing.p20,
        "ms_p80": timing.p80, "rounds": timing.rounds, "host_ms": timing.host,
        "tflops": _ratio(least.flops, timing.median * 1e9), "gbps": _ratio(least.bytes, timing.median * 1e6),
        "floor_ms": least.floor_ms, "share": _ratio(least.floor_ms, timing.median),
    }  # fmt: skip


def _ratio(amount: float | None, by: float) -> float | None:
    return None if amount is None else amount / by


def finish_or_lose(device: torch.device, name: str) -> None:
    """Waits for the device; raises DeviceLost, with the name of what ran last, where it accepts no more work."""
    try:
        finish(device)
    except RuntimeError as fault:
        reason = f"{name}: {' '.join(str(fault).split())[:200]}"
        raise DeviceLost(reason) from None


@contextlib.contextmanager
def no_fallback() -> Iterator[None]:
    """Makes it an error that compiled code falls back to uncompiled code.

    torch.compile does so after too many compilations of one function, and FlexAttention where it is not compiled: it
    then keeps every score in memory.
    """
    with warnings.catch_warnings(), torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        warnings.filterwarnings("error", message="flex_attention called without torch.compile")
        yield
