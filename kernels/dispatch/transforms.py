"""Which derivatives operators have: one, in backward mode. Everything else is refused and never silently zero.

torch gives a registered operator no derivative in forward mode, and drops the tangents of its arguments without a word.
"""

from typing import Any

import torch
from torch.autograd import forward_ad
from torch.library import CustomOpDef


def unsupported_transform() -> str | None:
    """The transform in effect of which operators know nothing: "torch.func" or "forward-mode differentiation".

    vmap alone is none: torch calls an operator once per sample, or refuses it by name. None: no such transform.
    """
    if forward_ad._current_level >= 0:  # torch.func.jvp enters a level, too
        return "forward-mode differentiation"
    if torch._C._are_functorch_transforms_active():
        return "torch.func" if _differentiates() else None
    return None


def _differentiates() -> bool:
    kinds = torch._C._functorch.TransformType
    return any(layer.key() in (kinds.Grad, kinds.Jvp) for layer in torch._C._functorch.get_interpreter_stack() or ())


def expect_backward_mode(operation: str) -> None:
    """Raises RuntimeError inside torch.func.grad, torch.func.jvp, and forward-mode differentiation."""
    if (transform := unsupported_transform()) is not None:
        raise RuntimeError(
            f"{operation}: {transform} is not supported, its gradient is that of backward() and torch.autograd.grad"
        )


def differentiable_once(backward_op: CustomOpDef) -> None:
    """Registers that the backward operator has no derivative: a second backward pass raises RuntimeError."""
    name = backward_op._qualname

    def refuse(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(f"{name}: there is no second derivative, the operator is differentiable once")

    backward_op.register_autograd(refuse)
