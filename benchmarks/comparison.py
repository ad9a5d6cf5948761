"""The rows of a comparison: every implementation of a case, forward and backward, timed in turn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from phys4d.benchmarks.timing import Work, interleaved, peak_memory

# Part of a GPU's name -> (TFLOP/s of dense 16-bit products, TB/s) that good kernels are known to sustain on it.
SUSTAINED = {"H200": (790.0, 4.3), "H100": (790.0, 2.9)}


@dataclass(frozen=True)
class Runner:
    """One implementation of a case, ready to be timed.

    Attributes:
        works: "forward", "backward" or another part -> one call of it; a part that it cannot compute is absent.
        error: its largest error against the float64 result, in the unit of the result.
        deterministic: whether two runs of its last part were bit-equal.
    """

    works: Mapping[str, Work]
    error: float
    deterministic: bool


@dataclass(frozen=True)
class Needed:
    """The FLOPs and bytes that a part needs at least, and its floor in milliseconds; None where not known."""

    flops: float | None = None
    bytes: float | None = None
    floor_ms: float | None = None


def sustained(device: torch.device) -> tuple[float, float] | None:
    """TFLOP/s and TB/s that good kernels sustain on this GPU; None on a CPU, and on a GPU that `SUSTAINED` lacks."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rates for known, rates in SUSTAINED.items() if known in name), None)


def refused(case: str, name: str, fault: Exception | str) -> dict[str, Any]:
    """The row of an implementation that cannot compute the case, with the reason, or its exception, in one line."""
    reason = fault if isinstance(fault, str) else f"{type(fault).__name__}: {str(fault)[:200]}"
    return {"case": case, "backend": name, "refused": reason}


def compare(
    case: str, runners: Mapping[str, Runner], device: torch.device, *, quick: bool,
    needed: Callable[[str, str], Needed],
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per part and implementation: times, share of the floor, memory, error, and whether runs are bit-equal.

    Args:
        case: name of the case.
        runners: the implementations by name.
        device: where they run.
        quick: at most 10 rounds and one second for a part of all implementations, in place of 50 rounds and 20 s.
        needed: (part, name of an implementation) -> what that part needs.
    """
    effort: dict[str, Any] = {"rounds": 10 if quick else 50, "seconds": 1.0 if quick else 20.0}
    rows = []
    for part in dict.fromkeys(part for runner in runners.values() for part in runner.works):
        works = {name: runner.works[part] for name, runner in runners.items() if part in runner.works}
        for name, timing in interleaved(works, device, **effort).items():
            least = needed(part, name)
            rows.append({
                "case": case, "backend": name, "part": part, "ms": timing.median, "ms_p20": timing.p20,
                "ms_p80": timing.p80, "host_ms": timing.host, "tflops": _ratio(least.flops, timing.median * 1e9),
                "gbps": _ratio(least.bytes, timing.median * 1e6), "floor_ms": least.floor_ms,
                "share": _ratio(least.floor_ms, timing.median), "peak_mb": peak_memory(works[name], device),
                "error": runners[name].error, "deterministic": runners[name].deterministic,
            })  # fmt: skip
    return rows


def _ratio(amount: float | None, by: float) -> float | None:
    return None if amount is None else amount / by
