"""Who computes a loss: native code, a Triton kernel, or its definition in plain torch."""

from collections.abc import Mapping
from typing import Literal

import triton
from torch import Tensor

from phys4d.kernels import native

Backend = Literal["auto", "native", "triton", "reference"]
INTERPRETED = bool(triton.knobs.runtime.interpret)  # then Triton kernels serve the CPU, and native ones nothing


def chosen(
    backend: str, name: str, x: Tensor, fixed: Mapping[str, Tensor | None] | None = None, *, has_triton: bool = True
) -> str:
    """Which backend serves a loss on x's device: "native" on a CPU where it is built, "triton" on CUDA.

    "auto" leaves the rest to the definition; a name that cannot serve raises. fixed: arguments in which no kernel
    differentiates; one that wants a gradient needs the definition. has_triton: whether the loss has a Triton kernel.

    Raises:
        ValueError: an unknown backend. RuntimeError: one asked for by name that cannot serve, with the reason.
    """
    if backend not in ("auto", "native", "triton", "reference"):
        raise ValueError(f'backend: expected "auto", "native", "triton" or "reference", got "{backend}"')
    if backend == "reference":
        return backend
    wanted = backend
    if wanted == "auto":
        wanted = "native" if x.device.type == "cpu" and not INTERPRETED else "triton"
    fault = _fault(wanted, x, has_triton)
    for argument, value in (fixed or {}).items():
        if value is not None and value.requires_grad:
            fault = f'{argument} wants a gradient, which only backend="reference" gives'
    if fault is None:
        return wanted
    if backend != "auto":
        raise RuntimeError(f"{name}: the {backend} backend cannot serve {x.device}: {fault}")
    return "reference"


def _fault(backend: str, x: Tensor, has_triton: bool) -> str | None:
    kind = x.device.type
    if backend == "native":
        available, reason = native.status()
        if kind != "cpu":
            return "it serves the CPU only"
        return "this process interprets Triton kernels" if INTERPRETED else None if available else reason
    if not has_triton:
        return "there is no Triton kernel of this loss"
    return None if kind == "cuda" or (kind == "cpu" and INTERPRETED) else "Triton kernels run on CUDA"
