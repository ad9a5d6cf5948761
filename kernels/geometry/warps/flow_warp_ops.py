"""Backward warp as torch operators: `phys4d::flow_warp` and its backward.

On a CPU native code serves where it is built, else the definition; on CUDA Triton kernels, which the interpreter
brings to the CPU. Nothing but the inputs is kept for the backward.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import autocast_to_float32, cpu_kernel, differentiable_once, launch
from phys4d.kernels.geometry.fixed_point import CACHED, fixed_point
from phys4d.kernels.geometry.planes import expect_pixels, with_planes
from phys4d.kernels.geometry.warps import flow_warp_kernels
from phys4d.kernels.geometry.warps.flow_warp_reference import flow_warp_reference

BLOCK = 256


def forward(
    frames: Tensor, flow: Tensor, labels: Tensor | None, wanted: Tensor | None, tolerance: float, clamp: bool
) -> tuple[Tensor, Tensor]:
    """warped [B, C, T, H, W] and inside bool [B, T, H, W].

    Args:
        frames: [B, C, T, H, W]; flow: [B, 2, T, H, W], same dtype, float32 or float64.
        labels, wanted: [B, T, H, W] of frames' dtype, both or none: a pixel of `frames` counts only where its label
            differs from the `wanted` of the reading pixel by at most `tolerance` times that; the weights of those that
            count are divided by their sum, and `inside` is where there is one. They get no gradient.
        clamp: border="clamp".
    """
    clips, channels, times, height, width = frames.shape
    warped = frames.new_empty(frames.shape)
    inside = frames.new_empty((clips, times, height, width), dtype=torch.bool)
    inputs, strides, options = _launch_arguments(frames, flow, labels, wanted, tolerance, clamp)
    if inside.numel():
        blocks = -(-height * width // BLOCK)
        launch(
            flow_warp_kernels.forward_kernel, clips * times * blocks,
            *inputs, warped, inside.view(torch.uint8), channels, times, height, width, blocks, *strides, **options,
            num_warps=4,
        )  # fmt: skip
    return warped, inside


def _launch_arguments(
    frames: Tensor, flow: Tensor, labels: Tensor | None, wanted: Tensor | None, tolerance: float, clamp: bool
) -> tuple[list[Tensor], list[int], dict[str, Any]]:
    """What both kernels share: tensors with contiguous planes, their strides, and options."""
    expect_pixels("frames", frames)
    frames, flow = with_planes(frames), with_planes(flow)
    marks = [flow if mark is None else mark.contiguous() for mark in (labels, wanted)]
    options = {"CLAMP": clamp, "LABELLED": labels is not None, "TOLERANCE": tolerance, "BLOCK": BLOCK}
    return [frames, flow, *marks], [*frames.stride()[:3], *flow.stride()[:3]], options


flow_warp_op = torch.library.custom_op("phys4d::flow_warp", forward, mutates_args=())


@flow_warp_op.register_fake
def _(frames, flow, labels, wanted, tolerance, clamp):  # type: ignore[no-untyped-def]
    return frames.new_empty(frames.shape), flow.new_empty(flow[:, 0].shape, dtype=torch.bool)


def backward(
    grad: Tensor, frames: Tensor, flow: Tensor, labels: Tensor | None, wanted: Tensor | None, tolerance: float,
    clamp: bool, fixed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """d_frames [B, C, T, H, W], empty where frames are `fixed`, and d_flow [B, 2, T, H, W], contiguous.

    grad: [B, C, T, H, W]; the rest as in `forward`.
    """
    clips, channels, times, height, width = frames.shape
    plane = height * width
    blocks = -(-plane // BLOCK)
    d_flow = flow.new_empty(flow.shape)
    d_frames = frames.new_empty(0 if fixed else frames.shape)
    if not d_flow.numel():
        return d_frames, d_flow
    grad = with_planes(grad)
    (frames, flow, *marks), strides, options = _launch_arguments(frames, flow, labels, wanted, tolerance, clamp)
    sizes = channels, times, height, width, blocks
    if not fixed:  # no weight is above 1, so that no contribution is larger than the largest gradient
        peak = grad.new_empty((clips, times * blocks), dtype=torch.float64)
        launch(
            flow_warp_kernels.peak_kernel, peak.numel(),
            flow, *marks, grad, peak, *sizes, *strides[3:], *grad.stride()[:3], **options, num_warps=4
        )
        step, unit = fixed_point(peak.amax(1), 4 * plane)
    else:
        step = unit = grad.new_empty(0, dtype=torch.float64)
    images, a_frame = clips * times, channels * plane
    at_once = images if fixed else max(1, min(images, CACHED // max(8 * a_frame, 1)))
    sums = frames.new_zeros((0 if fixed else at_once, channels, height, width), dtype=torch.int64)
    for first in range(0, images, at_once):
        count = min(at_once, images - first)
        launch(
            flow_warp_kernels.backward_kernel, count * blocks,
            frames, flow, *marks, grad, step, sums, d_flow, first, *sizes, *strides, *grad.stride()[:3], **options,
            FIXED=fixed, num_warps=4,
        )  # fmt: skip
        if d_frames.numel():
            launch(
                flow_warp_kernels.finish_kernel, count * channels * blocks,
                sums, unit, d_frames, first, channels, times, plane, blocks, BLOCK=BLOCK, num_warps=4
            )
    return d_frames, d_flow


flow_warp_backward_op = torch.library.custom_op("phys4d::flow_warp_backward", backward, mutates_args=())


@flow_warp_backward_op.register_fake
def _(grad, frames, flow, labels, wanted, tolerance, clamp, fixed):  # type: ignore[no-untyped-def]
    return frames.new_empty(0 if fixed else frames.shape), flow.new_empty(flow.shape)


differentiable_once(flow_warp_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    wants_frames, wants_flow = ctx.needs_input_grad[:2]
    d_frames, d_flow = flow_warp_backward_op(grad, *ctx.saved_tensors, *ctx.rest, not wants_frames)
    return d_frames if wants_frames else None, d_flow if wants_flow else None, None, None, None, None


flow_warp_op.register_autograd(_backward, setup_context=_setup)
autocast_to_float32(flow_warp_op)


@cpu_kernel(flow_warp_op)
def _(frames, flow, labels, wanted, tolerance, clamp):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        return torch.ops.phys4d.native_flow_warp(frames, flow, labels, wanted, tolerance, clamp)
    warped, inside = flow_warp_reference(frames, flow, labels, wanted, tolerance, clamp)
    return warped.contiguous(), inside


@cpu_kernel(flow_warp_backward_op)
def _(grad, frames, flow, labels, wanted, tolerance, clamp, fixed):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        return torch.ops.phys4d.native_flow_warp_backward(
            grad, frames, flow, labels, wanted, tolerance, clamp, fixed
        )

    def value(frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        return flow_warp_reference(frames, flow, labels, wanted, tolerance, clamp)

    # Not by autograd, which is off inside an operator.
    found: Any = torch.func.vjp(value, frames, flow, has_aux=True)
    d_frames, d_flow = found[1](grad)
    return frames.new_empty(0) if fixed else d_frames.contiguous(), d_flow.contiguous()
