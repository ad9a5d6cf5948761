"""Warp consistency as torch operators: `phys4d::warp_consistency` and its backward.

On a CPU native code serves where it is built, else the definition; on CUDA Triton kernels, which the interpreter
brings to the CPU. Backward computes everything again from the inputs: nothing of the size of an image is kept.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import autocast_to_float32, cpu_kernel, differentiable_once, launch
from phys4d.kernels.geometry.fixed_point import CACHED, fixed_point
from phys4d.kernels.geometry.losses import warp_kernels
from phys4d.kernels.geometry.losses.warp_reference import LOSSES, warp_reference
from phys4d.kernels.geometry.planes import expect_pixels, with_planes

# Pixels of a program of four warps. With eight a lane, the registers of backward would leave an SM two programs.
FORWARD, BACKWARD, FINISH = 1024, 512, 1024
_AXIS = 65_535  # programs along an axis of a grid but the first


def forward(
    depth: Tensor, motion: Tensor, visible: Tensor | None, weight: Tensor | None, truth: Tensor | None,
    loss: str, z_test: float, clamp: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss of each clip [B], its sum of weights float64 [B], pixels used int64 [B], and `peak` float64 [B].

    Args:
        depth: [B, T, H, W]; motion: [B, 3, T-1, H, W], same dtype, float32 or float64.
        visible: bool [B, T-1, H, W]; weight: [B, T-1, H, W]; truth: [B, T, H, W], for the backward form.
        loss: one of `LOSSES`. z_test: as in `warp_consistency`; negative: none. clamp: border="clamp".

    peak bounds what any pixel gives to a neighbour's gradient; it scales the integers of the Triton backward, and is 0
    on a CPU, which needs none.
    """
    clips, frames, height, width = depth.shape
    pairs, blocks = frames - 1, -(-height * width // FORWARD)
    partial = depth.new_empty((clips * pairs * blocks, 4), dtype=torch.float64)
    inputs, strides, options = launch_arguments(depth, motion, visible, weight, truth, loss, z_test, clamp)
    if partial.numel():
        launch(
            warp_kernels.forward_kernel, (blocks, pairs, clips),
            *inputs, partial, height, width, *strides, **options, BLOCK=FORWARD, num_warps=4,
        )  # fmt: skip
    numbers = partial.view(clips, -1, 4)
    total = numbers[..., 1].sum(1)
    value = (numbers[..., 0].sum(1) / torch.where(total > 0, total, 1)).to(depth.dtype)
    peak = numbers[..., 3].amax(1) if numbers.numel() else torch.zeros_like(total)
    return value, total, numbers[..., 2].sum(1).long(), peak


def launch_arguments(
    depth: Tensor, motion: Tensor, visible: Tensor | None, weight: Tensor | None, truth: Tensor | None,
    loss: str, z_test: float, clamp: bool,
) -> tuple[list[Tensor], list[int], dict[str, Any]]:  # fmt: skip
    """What both kernels share: tensors with contiguous planes, their strides, and options."""
    expect_pixels("depth", depth)
    if max(depth.shape[:2]) > _AXIS:
        raise ValueError(f"depth: expected at most {_AXIS} clips, and frames of each, got {list(depth.shape[:2])}")
    depth, motion = with_planes(depth), with_planes(motion)
    shown = depth if visible is None else with_planes(visible.view(torch.uint8))
    weights = depth if weight is None else with_planes(weight)
    still = depth if truth is None else with_planes(truth)
    strides = [
        *depth.stride()[:2], *still.stride()[:2], *motion.stride()[:3], *shown.stride()[:2], *weights.stride()[:2]
    ]  # fmt: skip
    options = {
        "LOSS": LOSSES.index(loss), "BACK": truth is not None, "HAS_VISIBLE": visible is not None,
        "HAS_WEIGHT": weight is not None, "CLAMP": clamp, "NEAREST": 1 - z_test, "TEST": z_test >= 0,
    }  # fmt: skip
    return [depth, still, motion, shown, weights], strides, options


warp_op = torch.library.custom_op("phys4d::warp_consistency", forward, mutates_args=())


@warp_op.register_fake
def _(depth, motion, visible, weight, truth, loss, z_test, clamp):  # type: ignore[no-untyped-def]
    exact = [depth.new_empty(len(depth), dtype=dtype) for dtype in (torch.float64, torch.int64, torch.float64)]
    return depth.new_empty(len(depth)), *exact


def backward(
    scale: Tensor, peak: Tensor, depth: Tensor, motion: Tensor, visible: Tensor | None, weight: Tensor | None,
    truth: Tensor | None, loss: str, z_test: float, clamp: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """d_depth [B, T, H, W] and d_motion [B, 3, T-1, H, W], contiguous.

    scale: float64 [B], the gradient of each clip's loss over its sum of weights; peak: as `forward` gives it, on CUDA
    (a peak that is not finite makes the clip's gradient of depth NaN); the rest as in `forward`.
    """
    clips, frames, height, width = depth.shape
    pairs, plane = frames - 1, height * width
    images = clips * pairs
    d_depth, d_motion = depth.new_empty(depth.shape), motion.new_empty(motion.shape)
    scale = scale.contiguous()
    step, unit = fixed_point(peak.contiguous(), 4 * plane)
    inputs, strides, options = launch_arguments(depth, motion, visible, weight, truth, loss, z_test, clamp)
    at_once = max(1, min(images, CACHED // max(8 * plane, 1), _AXIS))
    sums = depth.new_zeros((at_once, height, width), dtype=torch.int64)
    # The last first: what moved depth gets at the frame that a pair samples comes from the pair after it.
    for first in range((images - 1) // at_once * at_once, -1, -at_once) if plane else ():
        count = min(at_once, images - first)
        launch(
            warp_kernels.backward_kernel, (-(-plane // BACKWARD), count),
            *inputs, scale, step, sums, d_motion, first, pairs, height, width, *strides, **options, BLOCK=BACKWARD,
            num_warps=4,
        )  # fmt: skip
        launch(
            warp_kernels.finish_kernel, (-(-plane // FINISH), count),
            sums, d_motion, unit * scale, d_depth, first, pairs, plane, BACK=truth is not None, BLOCK=FINISH,
            num_warps=4,
        )  # fmt: skip
    spoilt = (0 * unit * scale).to(depth.dtype)[:, None, None]
    if truth is not None or not pairs:
        d_depth[:, -1:] = spoilt[:, None]  # no pair samples it
    else:
        torch.add(d_motion[:, 2, 0], spoilt, out=d_depth[:, 0])
    return d_depth, d_motion


warp_backward_op = torch.library.custom_op("phys4d::warp_consistency_backward", backward, mutates_args=())


@warp_backward_op.register_fake
def _(scale, peak, depth, motion, *rest):  # type: ignore[no-untyped-def]
    return depth.new_empty(depth.shape), motion.new_empty(motion.shape)


differentiable_once(warp_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, total, used, peak = output
    ctx.mark_non_differentiable(total, used, peak)
    ctx.save_for_backward(total, peak, *inputs[:5])
    ctx.rest = inputs[5:]


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    total, peak, *tensors = ctx.saved_tensors
    scale = torch.where(total > 0, grad.to(torch.float64) / torch.where(total > 0, total, 1), 0)
    return *warp_backward_op(scale, peak, *tensors, *ctx.rest), *[None] * 6


warp_op.register_autograd(_backward, setup_context=_setup)
autocast_to_float32(warp_op)


@cpu_kernel(warp_op)
def _(depth, motion, visible, weight, truth, loss, z_test, clamp):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        total: Tensor
        kept, total, used = torch.ops.phys4d.native_warp_consistency(
            depth, motion, visible, weight, truth, LOSSES.index(loss), z_test, clamp
        )
        value = (kept / torch.where(total > 0, total, 1)).to(depth.dtype)
    else:
        value, total, used = warp_reference(depth, motion, visible, weight, truth, loss, z_test, clamp)
    return value, total.double(), used, value.new_zeros(len(value), dtype=torch.float64)


@cpu_kernel(warp_backward_op)
def _(scale, peak, depth, motion, visible, weight, truth, loss, z_test, clamp):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        return torch.ops.phys4d.native_warp_consistency_backward(
            scale, depth, motion, visible, weight, truth, LOSSES.index(loss), z_test, clamp
        )

    def value(depth: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        return warp_reference(depth, motion, visible, weight, truth, loss, z_test, clamp)[:2]

    # Not by autograd, which is off inside an operator.
    found: Any = torch.func.vjp(value, depth, motion, has_aux=True)
    _, slope, total = found
    d_depth, d_motion = slope((scale * total).to(depth.dtype))
    return d_depth.contiguous(), d_motion.contiguous()
