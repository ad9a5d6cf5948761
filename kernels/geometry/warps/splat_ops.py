"""Forward warp with a depth buffer as torch operators: `phys4d::splat` and its backward.

On a CPU native code serves where it is built, else the definition; on CUDA Triton kernels, which the interpreter
brings to the CPU. Backward follows the index: every source is seen in one pixel at most, so that nothing is summed.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import autocast_to_float32, cpu_kernel, differentiable_once, launch
from phys4d.kernels.geometry.planes import expect_pixels, with_planes
from phys4d.kernels.geometry.warps import splat_kernels
from phys4d.kernels.geometry.warps.splat_reference import splat_reference

BLOCK = 512
_EMPTY = torch.iinfo(torch.int64).max


def forward(values: Tensor, flow: Tensor, depth: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """values [B, C, T, H, W], depth [B, T, H, W] and index int64 [B, T, H, W].

    Args:
        values: [B, C, T, H, W]; flow: [B, 2, T, H, W]; depth: [B, T, H, W], after the motion; all of one dtype,
            float32 or float64. valid: bool [B, T, H, W].

    A float32 depth (positive, so that its bits sort as it does) and the index of its pixel make one int64, whose least
    wins at once. A float64 depth fills it alone: the least depth is found first, then the least index that has it.
    """
    clips, channels, times, height, width = values.shape
    blocks = -(-height * width // BLOCK)
    taken, found = values.new_empty(values.shape), depth.new_empty(depth.shape)
    index = depth.new_empty(depth.shape, dtype=torch.int64)
    if not index.numel():
        return taken, found, index
    expect_pixels("depth", depth)
    values, flow, depth = with_planes(values), with_planes(flow), with_planes(depth)
    shown = depth if valid is None else with_planes(valid.view(torch.uint8))
    strides = [*flow.stride()[:3], *depth.stride()[:2], *shown.stride()[:2]]
    sizes, grid = (times, height, width, blocks), clips * times * blocks
    keys = torch.full_like(index, _EMPTY)
    exact = depth.dtype == torch.float64
    nearest = torch.full_like(index, _EMPTY) if exact else keys
    for least in (("depth", "index") if exact else ("both",)):
        launch(
            splat_kernels.land_kernel, grid, flow, depth, shown, nearest, keys, *sizes, *strides,
            LEAST=splat_kernels.LEAST.index(least), HAS_VALID=valid is not None, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    launch(
        splat_kernels.take_kernel, grid, keys, values, depth, taken, found, index, channels, *sizes,
        *values.stride()[:3], *depth.stride()[:2],
        BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return taken, found, index


splat_op = torch.library.custom_op("phys4d::splat", forward, mutates_args=())


@splat_op.register_fake
def _(values, flow, depth, valid):  # type: ignore[no-untyped-def]
    index = depth.new_empty(depth.shape, dtype=torch.int64)
    return values.new_empty(values.shape), depth.new_empty(depth.shape), index


def backward(grad: Tensor, depth_grad: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """d_values [B, C, T, H, W] and d_depth [B, T, H, W], contiguous.

    grad: [B, C, T, H, W]; depth_grad: [B, T, H, W], same dtype; index: as `forward` gives it.
    """
    clips, channels, times, height, width = grad.shape
    d_values, d_depth = grad.new_zeros(grad.shape), depth_grad.new_zeros(depth_grad.shape)
    if index.numel():
        blocks = -(-height * width // BLOCK)
        grad, depth_grad = with_planes(grad), with_planes(depth_grad)
        launch(
            splat_kernels.return_kernel, clips * times * blocks,
            index.contiguous(), grad, depth_grad, d_values, d_depth, channels, times, height * width, blocks,
            *grad.stride()[:3], *depth_grad.stride()[:2], BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return d_values, d_depth


splat_backward_op = torch.library.custom_op("phys4d::splat_backward", backward, mutates_args=())


@splat_backward_op.register_fake
def _(grad, depth_grad, index):  # type: ignore[no-untyped-def]
    return grad.new_empty(grad.shape), depth_grad.new_empty(depth_grad.shape)


differentiable_once(splat_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2])


def _backward(ctx: Any, grad: Tensor, depth_grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    d_values, d_depth = splat_backward_op(grad, depth_grad, *ctx.saved_tensors)
    return d_values, None, d_depth, None


splat_op.register_autograd(_backward, setup_context=_setup)
autocast_to_float32(splat_op)


@cpu_kernel(splat_op)
def _(values, flow, depth, valid):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        return torch.ops.phys4d.native_splat(values, flow, depth, valid)
    return splat_reference(values, flow, depth, valid)


@cpu_kernel(splat_backward_op)
def _(grad, depth_grad, index):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        return torch.ops.phys4d.native_splat_backward(grad, depth_grad, index)
    plane = grad.shape[-2] * grad.shape[-1]
    source = torch.where(index < 0, plane, index).flatten(-2)  # the last: for holes

    def returned(grad: Tensor, source: Tensor) -> Tensor:
        sent = grad.new_zeros(*grad.shape[:-2], plane + 1).scatter_(-1, source, grad.flatten(-2))
        return sent[..., :-1].reshape(grad.shape)

    return returned(grad, source[:, None].expand(*grad.shape[:3], plane)), returned(depth_grad, source)
