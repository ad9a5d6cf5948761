"""Who computes: native code, a Triton kernel, or the definition in plain torch."""

from collections.abc import Mapping
from typing import Literal

import torch
import triton
from torch import Tensor

from phys4d.kernels import native

Backend = Literal["auto", "native", "triton", "reference"]
INTERPRETED = bool(triton.knobs.runtime.interpret)  # then Triton kernels serve the CPU, and native ones nothing
_NAMES = ("native", "triton", "reference")  # in the order of "auto"


def chosen(
    backend: str,
    name: str,
    x: Tensor,
    fixed: Mapping[str, Tensor | None] | None = None,
    *,
    on_cuda: str | None = None,
    unable: Mapping[str, str] | None = None,
) -> str:
    """Which backend serves an operation on x's device: of those that can, native code, then Triton, then torch.

    "auto" takes the first that serves; one asked for by name that cannot serve raises.

    Args:
        name: of the operation, for messages.
        fixed: arguments in which no kernel differentiates; one that wants a gradient needs the definition.
        on_cuda: the native op that serves CUDA too, where it was built so.
        unable: backends that cannot do what is wanted, and why.

    Raises:
        ValueError: an unknown backend. RuntimeError: one asked for by name that cannot serve, with the reason; or
            "auto", where none can.
    """
    if backend not in ("auto", *_NAMES):
        raise ValueError(f'backend: expected "auto", "native", "triton" or "reference", got "{backend}"')
    faults = {
        "native": _native_fault(x.device, on_cuda),
        "triton": _triton_fault(x.device),
        "reference": None,
    }
    for argument, value in (fixed or {}).items():
        if value is not None and value.requires_grad:
            why = f'{argument} wants a gradient, which only backend="reference" gives'
            faults["native"] = faults["triton"] = why
    for served, why in (unable or {}).items():
        faults[served] = faults[served] or why
    wanted = _NAMES if backend == "auto" else (backend,)
    found = next((served for served in wanted if faults[served] is None), None)
    if found is not None:
        return found
    if backend == "auto":
        reasons = "; ".join(f"{served}: {why}" for served, why in faults.items())
        raise RuntimeError(f"{name}: no backend can serve {x.device}: {reasons}")
    raise RuntimeError(f"{name}: the {backend} backend cannot serve {x.device}: {faults[backend]}")


def _native_fault(device: torch.device, on_cuda: str | None) -> str | None:
    available, reason = native.status()
    if device.type == "cuda" and on_cuda is not None:
        if not available:
            return reason
        return None if native.compiled_for(on_cuda, "cuda") else f"{reason}; nothing for cuda"
    if device.type != "cpu":
        return "it serves the CPU only"
    return "this process interprets Triton kernels" if INTERPRETED else None if available else reason


def _triton_fault(device: torch.device) -> str | None:
    served = device.type == "cuda" or (device.type == "cpu" and INTERPRETED)
    return None if served else "Triton kernels run on CUDA"
