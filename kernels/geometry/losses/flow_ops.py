"""The flow loss as torch operators: `phys4d::flow_loss` and its backward.

On a CPU native code serves where it is built, else the definition; on CUDA Triton kernels, which the interpreter
brings to the CPU. Backward computes everything again from the inputs.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import autocast_to_float32, cpu_kernel, differentiable_once, launch, with_rows
from phys4d.kernels.geometry.losses import flow_kernels
from phys4d.kernels.geometry.losses.flow_reference import KINDS, flow_reference

BLOCK = 512  # four numbers, or 16 bytes, per thread


def forward(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, confidence: Tensor | None, kind: str
) -> tuple[Tensor, Tensor]:
    """The loss of each clip [B] and its sum of weights float64 [B].

    Args:
        predicted, target: [B, C, N], float32 or float64; valid: bool [B, N]; weight: [B, N].
        confidence: [B, 2, N], for "laplace" alone. kind: one of `KINDS`.
    """
    inputs, numbers, grid, options = launch_arguments(predicted, target, valid, weight, confidence, kind)
    partial = predicted.new_empty((*grid[::-1], 2), dtype=torch.float64)
    if partial.numel():
        launch(flow_kernels.forward_kernel, grid, *inputs, partial, *numbers, **options)
    kept, total = partial.sum(1).unbind(-1)
    return (kept / torch.where(total > 0, total, 1)).to(predicted.dtype), total.contiguous()


def launch_arguments(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, confidence: Tensor | None, kind: str
) -> tuple[list[Tensor], list[int], tuple[int, int], dict[str, Any]]:
    """What both kernels share: tensors with contiguous rows, sizes and strides, programs per clip, options."""
    assert (kind == "laplace") == (confidence is not None)
    clips, channels, pixels = predicted.shape
    rows = [with_rows(x) for x in (predicted, target, valid.view(torch.uint8))]
    rows += [rows[0] if x is None else with_rows(x) for x in (weight, confidence)]
    numbers = [pixels]
    for x, dimensions in zip(rows, (2, 2, 1, 1, 2), strict=True):
        numbers += x.stride()[:dimensions]
    options = {
        "KIND": KINDS.index(kind), "CHANNELS": channels, "HAS_WEIGHT": weight is not None, "BLOCK": BLOCK,
        "num_warps": 4,
    }  # fmt: skip
    return rows, numbers, (-(-pixels // BLOCK), clips), options


flow_loss_op = torch.library.custom_op("phys4d::flow_loss", forward, mutates_args=())


@flow_loss_op.register_fake
def _(predicted, target, valid, weight, confidence, kind):  # type: ignore[no-untyped-def]
    clips = len(predicted)
    return predicted.new_empty(clips), predicted.new_empty(clips, dtype=torch.float64)


def backward(
    scale: Tensor, predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, confidence: Tensor | None,
    kind: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """d_predicted [B, C, N] and d_confidence [B, 2, N], contiguous; the second is [0, 2, N] without a confidence.

    scale: float64 [B], the gradient of a clip's loss over its sum of weights; the rest as in `forward`.
    """
    inputs, numbers, grid, options = launch_arguments(predicted, target, valid, weight, confidence, kind)
    d_predicted, d_confidence = _gradients(predicted, confidence)
    if grid[0] * grid[1]:
        scale = scale.contiguous()
        launch(flow_kernels.backward_kernel, grid, *inputs, scale, d_predicted, d_confidence, *numbers, **options)
    return d_predicted, d_confidence


def _gradients(predicted: Tensor, confidence: Tensor | None) -> tuple[Tensor, Tensor]:
    clips = 0 if confidence is None else len(predicted)
    return predicted.new_empty(predicted.shape), predicted.new_empty(clips, 2, predicted.shape[2])


flow_loss_backward_op = torch.library.custom_op("phys4d::flow_loss_backward", backward, mutates_args=())


@flow_loss_backward_op.register_fake
def _(scale, predicted, target, valid, weight, confidence, kind):  # type: ignore[no-untyped-def]
    return _gradients(predicted, confidence)


differentiable_once(flow_loss_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[:5])
    ctx.kind = inputs[5]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    total, *tensors = ctx.saved_tensors
    scale = torch.where(total > 0, grad.to(torch.float64) / torch.where(total > 0, total, 1), 0)
    d_predicted, d_confidence = flow_loss_backward_op(scale, *tensors, ctx.kind)
    return d_predicted, None, None, None, None if tensors[4] is None else d_confidence, None


flow_loss_op.register_autograd(_backward, setup_context=_setup)
autocast_to_float32(flow_loss_op)


@cpu_kernel(flow_loss_op)
def _(predicted, target, valid, weight, confidence, kind):  # type: ignore[no-untyped-def]
    if not native.status()[0]:
        value, total = flow_reference(predicted, target, valid, weight, confidence, kind)
        return value, total.double()
    arguments = (predicted, target, valid, weight, confidence, KINDS.index(kind))
    kept, total = torch.ops.phys4d.native_flow_loss(*arguments)
    return (kept / torch.where(total > 0, total, 1)).to(predicted.dtype), total


@cpu_kernel(flow_loss_backward_op)
def _(scale, predicted, target, valid, weight, confidence, kind):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        rest = (target, valid, weight, confidence, KINDS.index(kind))
        return torch.ops.phys4d.native_flow_loss_backward(scale, predicted, *rest)

    def value(predicted: Tensor, confidence: Tensor | None) -> tuple[Tensor, Tensor]:
        return flow_reference(predicted, target, valid, weight, confidence, kind)

    # Not by autograd, which is off inside an operator.
    wanted = (predicted,) if confidence is None else (predicted, confidence)
    found: Any = torch.func.vjp(lambda p, c=None: value(p, c), *wanted, has_aux=True)
    _, slope, total = found
    d_predicted, *others = slope((scale * total).to(predicted.dtype))
    d_confidence = others[0].contiguous() if others else _gradients(predicted, None)[1]
    return d_predicted.contiguous(), d_confidence
