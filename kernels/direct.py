"""How our operators are called outside of a compiler: with little work for the host between the call and the launch.

What torch registers for an operator's gradient is for tracing. Called as it is, it looks at the operator's schema
argument by argument in every call and takes lists of tensors apart and together, which costs the host more than many a
kernel takes. Here the same setup and backward stand in an autograd function of their own, and the operator is called
below autograd; a compiler still gets the registered operator.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef


def direct(op: CustomOpDef, setup: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does what the operator does, gradient included.

    setup, backward: as registered with `op.register_autograd`. A list of tensors among the operator's arguments gets no
    gradient.
    """
    quick = below_autograd(op)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = quick(*args)
            setup(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return tuple(None if isinstance(g, list) else g for g in backward(ctx, *gradients))

    Direct.__name__ = Direct.__qualname__ = op._name  # what a profiler shows

    def call(*args: Any) -> Any:
        if _traced():
            return op(*args)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return Direct.apply(*args)
        return quick(*args)

    return call


def below_autograd(op: CustomOpDef) -> Callable[..., Any]:
    """The operator for where nothing is recorded: without gradients, and in a backward pass."""
    overload = op._opoverload

    def call(*args: Any) -> Any:
        if _traced() or torch.is_grad_enabled():
            return op(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args)

    return call


def _traced() -> bool:
    return torch.compiler.is_compiling()
