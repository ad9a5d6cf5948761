"""Which implementation serves a call: native code, a Triton kernel, or the definition in plain torch."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch.constants import constant_while_tracing
from phys4d.kernels.dispatch.interpreter import INTERPRETED
from phys4d.kernels.dispatch.transforms import unsupported_transform

Backend = Literal["auto", "native", "triton", "reference"]
# Types of devices on which Triton kernels run. A benchmark adds "cpu" to measure launches without a GPU.
TRITON_DEVICES = {"cuda", "cpu"} if INTERPRETED else {"cuda"}
_BACKENDS = ("native", "triton", "reference")  # in the order in which "auto" tries them


def triton_runs_on(device: torch.device) -> bool:
    """Whether Triton kernels run on this device: on CUDA, and in the interpreter on the CPU."""
    return device.type in TRITON_DEVICES


def float32_kernel_serves(tensor: Tensor) -> bool:
    """Whether a Triton kernel that computes in float32 serves this tensor; else torch's own operators do.

    float64 is not served. Tensors without data (device "meta") are: the kernel is then only compiled
    (`benchmarks/launches.py`).
    """
    served = tensor.is_cuda or tensor.is_meta or tensor.device.type in TRITON_DEVICES
    return served and tensor.element_size() != 8


def choose_backend(
    backend: str,
    operation: str,
    x: Tensor,
    fixed: Mapping[str, Tensor | None] | None = None,
    *,
    on_cuda: str | None = None,
    unable: Mapping[str, str] | None = None,
) -> str:
    """The backend that serves an operation on x's device: the first of native, triton, reference that can.

    "auto" takes the first that can serve; a backend that is named and cannot serve raises. Inside torch.func and
    forward-mode differentiation only the definition can.

    Args:
        backend: "auto", "native", "triton" or "reference".
        operation: its name, for messages.
        x: a tensor of the call; only its device is read.
        fixed: arguments in which no kernel differentiates; one that requires a gradient needs the definition.
        on_cuda: the native operator that serves CUDA too, where it was compiled for CUDA.
        unable: backends that cannot do what this call asks for, and why.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: a backend asked for by name that cannot serve, or "auto" where none can, with the reasons.
    """
    if backend not in ("auto", *_BACKENDS):
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
    if (transform := unsupported_transform()) is not None:
        faults["native"] = faults["triton"] = f'{transform} is supported by backend="reference" alone'
    for name, why in (unable or {}).items():
        faults[name] = faults[name] or why
    candidates = _BACKENDS if backend == "auto" else (backend,)
    found = next((name for name in candidates if faults[name] is None), None)
    if found is not None:
        return found
    if backend == "auto":
        reasons = "; ".join(f"{name}: {why}" for name, why in faults.items())
        raise RuntimeError(f"{operation}: no backend can serve {x.device}: {reasons}")
    raise RuntimeError(f"{operation}: the {backend} backend cannot serve {x.device}: {faults[backend]}")


def _native_fault(device: torch.device, on_cuda: str | None) -> str | None:
    available, reason = native.status()
    if device.type == "cuda" and on_cuda is not None:
        if not available:
            return reason
        return None if _compiled_for_cuda(on_cuda) else f"{reason}; nothing for cuda"
    if device.type != "cpu":
        return "it serves the CPU only"
    return "this process interprets Triton kernels" if INTERPRETED else None if available else reason


@constant_while_tracing
def _compiled_for_cuda(operator: str) -> bool:
    return native.compiled_for(operator, "cuda")


def _triton_fault(device: torch.device) -> str | None:
    return None if triton_runs_on(device) else "Triton kernels run on CUDA"
