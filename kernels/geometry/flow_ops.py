"""The flow loss as torch operators: `phys4d::flow_loss` and its backward, native on a CPU where it is built."""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry.flow_reference import KINDS, flow_reference


def forward(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, kind: str
) -> tuple[Tensor, Tensor]:
    """The loss of each clip [B] and its sum of weights float64 [B].

    Args:
        predicted, target: [B, C, N], float32 or float64; valid: bool [B, N]; weight: [B, N].
        kind: "l1", "charbonnier" or "epe".
    """
    value, total = flow_reference(predicted, target, valid, weight, kind)
    return value, total.double()


flow_loss_op = torch.library.custom_op("phys4d::flow_loss", forward, mutates_args=())


@flow_loss_op.register_fake
def _(predicted, target, valid, weight, kind):  # type: ignore[no-untyped-def]
    clips = len(predicted)
    return predicted.new_empty(clips), predicted.new_empty(clips, dtype=torch.float64)


@flow_loss_op.register_kernel("cpu")
def _(predicted, target, valid, weight, kind):  # type: ignore[no-untyped-def]
    if not native.status()[0]:
        return forward(predicted, target, valid, weight, kind)
    kept, total = torch.ops.phys4d.native_flow_loss(predicted, target, valid, weight, KINDS.index(kind))
    return (kept / torch.where(total > 0, total, 1)).to(predicted.dtype), total


def backward(
    scale: Tensor, predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, kind: str
) -> Tensor:
    """d_predicted [B, C, N], contiguous; scale: float64 [B], the gradient of a clip's loss over its sum of weights."""

    def value(predicted: Tensor) -> tuple[Tensor, Tensor]:
        return flow_reference(predicted, target, valid, weight, kind)

    # Not by autograd, which is off inside an operator.
    found: Any = torch.func.vjp(value, predicted, has_aux=True)
    _, slope, total = found
    return slope((scale * total).to(predicted.dtype))[0].contiguous()


flow_loss_backward_op = torch.library.custom_op("phys4d::flow_loss_backward", backward, mutates_args=())


@flow_loss_backward_op.register_fake
def _(scale, predicted, *rest):  # type: ignore[no-untyped-def]
    return predicted.new_empty(predicted.shape)


@flow_loss_backward_op.register_kernel("cpu")
def _(scale, predicted, target, valid, weight, kind):  # type: ignore[no-untyped-def]
    if not native.status()[0]:
        return backward(scale, predicted, target, valid, weight, kind)
    return torch.ops.phys4d.native_flow_loss_backward(scale, predicted, target, valid, weight, KINDS.index(kind))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[:4])
    ctx.kind = inputs[4]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    total, *tensors = ctx.saved_tensors
    scale = torch.where(total > 0, grad.to(torch.float64) / torch.where(total > 0, total, 1), 0)
    return flow_loss_backward_op(scale, *tensors, ctx.kind), None, None, None, None


flow_loss_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("phys4d::flow_loss", _device, torch.float32)
