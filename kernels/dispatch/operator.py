"""Registered operators: calls with little host work between the caller and the launch, and rules many operators share.

No operator takes a list that may be empty: it would arrive as None from a package of AOTInductor. What may be absent is
an argument of its own.

The gradient that torch registers for an operator is made for tracing. In an eager call it reads the operator's schema
argument by argument, which costs the host more time than many a kernel takes. `low_overhead_call` puts the same setup
and backward into an autograd function and calls the operator below autograd; a compiler still gets the registered
operator.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

from phys4d.kernels.dispatch.interpreter import INTERPRETED
from phys4d.kernels.dispatch.transforms import expect_backward_mode


def low_overhead_call(op: CustomOpDef, setup: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the operator's results and gradients.

    Args:
        op: the operator, with its gradient registered.
        setup, backward: as registered with `op.register_autograd`.

    The function raises RuntimeError inside torch.func and forward-mode differentiation.
    """
    call_op, name = below_autograd(op), op._qualname

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = call_op(*args)
            setup(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, *gradients)

    Direct.__name__ = Direct.__qualname__ = op._name  # what a profiler shows

    def call(*args: Any) -> Any:
        expect_backward_mode(name)
        if _compiling():
            return op(*args)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return Direct.apply(*args)
        return call_op(*args)

    return call


def below_autograd(op: CustomOpDef) -> Callable[..., Any]:
    """The operator for where nothing is recorded: without gradients, and in a backward pass."""
    overload = op._opoverload

    def call(*args: Any) -> Any:
        if _compiling() or torch.is_grad_enabled():
            return op(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args)

    return call


def _compiling() -> bool:
    return torch.compiler.is_compiling()


def cpu_kernel(op: CustomOpDef) -> Callable[[Callable[..., Any]], Any]:
    """Decorates the function that serves the operator on a CPU: by native code or by the definition.

    In Triton's interpreter nothing is registered: the operator's own body launches its Triton kernels on the CPU.
    """
    return (lambda function: function) if INTERPRETED else op.register_kernel("cpu")


def autocast_to_float32(op: CustomOpDef | str) -> None:
    """Registers that autocast gives the operator (or the one of this qualified name) float32 on CPU and CUDA."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(op, device, torch.float32)
