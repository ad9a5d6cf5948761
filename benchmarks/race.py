"""The rows of a race: every peer of a case forward and backward, timed in turn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from phys4d.benchmarks.attention import SUSTAINED
from phys4d.benchmarks.timing import Work, interleaved, peak_memory


@dataclass(frozen=True)
class Runner:
    """What one peer does of a case, by part, and what is known of it before it is timed.

    Attributes:
        works: "forward", "backward" or another part -> one call of it; a peer that cannot do a part lacks it.
        error: its largest error against the truth, in the unit of the result.
        deterministic: whether two runs of its last part were bit-equal.
    """

    works: Mapping[str, Work]
    error: float
    deterministic: bool


def sustained(device: torch.device) -> tuple[float, float] | None:
    """TFLOP/s and TB/s that good kernels sustain on this card; None where nobody knows."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rates for known, rates in SUSTAINED.items() if known in name), None)


def refused(case: str, name: str, fault: Exception | str) -> dict[str, Any]:
    """The row of a peer that cannot serve: why, or the exception in a line."""
    reason = fault if isinstance(fault, str) else f"{type(fault).__name__}: {str(fault)[:200]}"
    return {"case": case, "backend": name, "refused": reason}


def race(
    case: str, runners: Mapping[str, Runner], device: torch.device, *, quick: bool, seconds: float = 10.0,
    counted: Callable[[str], dict[str, Any]],
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per peer and part: times, share of the floor, memory, error, and whether runs are bit-equal.

    counted: part -> "flops", "bytes" (None where they are not told) and "floor_ms" of the case.
    """
    effort: dict[str, Any] = {"rounds": 10 if quick else 50, "seconds": 1.0 if quick else seconds}
    rows = []
    for part in dict.fromkeys(part for runner in runners.values() for part in runner.works):
        works = {name: runner.works[part] for name, runner in runners.items() if part in runner.works}
        needed = counted(part)
        for name, timing in interleaved(works, device, **effort).items():
            rows.append({
                "case": case, "backend": name, "part": part, "ms": timing.median, "ms_p20": timing.p20,
                "ms_p80": timing.p80, "host_ms": timing.host, "tflops": _rate(needed["flops"], timing.median * 1e9),
                "gbps": _rate(needed["bytes"], timing.median * 1e6), "floor_ms": needed["floor_ms"],
                "share": _rate(needed["floor_ms"], timing.median), "peak_mb": peak_memory(works[name], device),
                "error": runners[name].error, "deterministic": runners[name].deterministic,
            })  # fmt: skip
    return rows


def _rate(amount: float | None, by: float) -> float | None:
    return None if amount is None else amount / by
