"""The scene flow loss as torch operators: `phys4d::scene_flow` and its backward.

On a CPU native code serves where it is built, else the definition; on CUDA Triton kernels, which the interpreter
brings to the CPU. Backward computes everything again from the inputs.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import autocast_to_float32, cpu_kernel, differentiable_once, launch
from phys4d.kernels.geometry.losses import scene_flow_kernels
from phys4d.kernels.geometry.losses.scene_flow_reference import scene_flow_reference
from phys4d.kernels.geometry.planes import with_planes

ROWS, COLUMNS = 4, 128  # of a tile


def forward(
    depth: Tensor, motion: Tensor, true_depth: Tensor, true_motion: Tensor, valid: Tensor, weight: Tensor | None,
    intrinsics: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss of each clip [B] and its sum of weights float64 [B].

    Args:
        depth, true_depth: [B, T, H, W]; motion, true_motion: [B, 3, T-1, H, W]; one dtype, float32 or float64.
        valid: bool [B, T-1, H, W]; weight: [B, T-1, H, W]; intrinsics: [B, T, 3, 3].
    """
    inputs, numbers, grid = launch_arguments(depth, motion, true_depth, true_motion, valid, weight, intrinsics)
    partial = depth.new_empty((*grid[::-1], 2), dtype=torch.float64)
    if partial.numel():
        launch(
            scene_flow_kernels.forward_kernel, grid, *inputs, partial, *numbers,
            HAS_WEIGHT=weight is not None, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=4,
        )  # fmt: skip
    kept, total = partial.flatten(1, 2).sum(1).unbind(-1)
    return (kept / torch.where(total > 0, total, 1)).to(depth.dtype), total.contiguous()


def launch_arguments(
    depth: Tensor, motion: Tensor, true_depth: Tensor, true_motion: Tensor, valid: Tensor, weight: Tensor | None,
    intrinsics: Tensor,
) -> tuple[list[Tensor], list[int], tuple[int, int, int]]:  # fmt: skip
    """What both kernels share: tensors with contiguous planes, sizes and strides, and programs per pair of frames."""
    clips, frames, height, width = depth.shape
    planes = [with_planes(x) for x in (depth, motion, true_depth, true_motion, valid.view(torch.uint8))]
    weights = planes[0] if weight is None else with_planes(weight)
    across = -(-width // COLUMNS)
    numbers = [height, width, across]
    for x in (*planes, weights):
        numbers += x.stride()[:-2]
    return [*planes, weights, intrinsics.contiguous()], numbers, (across * -(-height // ROWS), frames - 1, clips)


scene_flow_op = torch.library.custom_op("phys4d::scene_flow", forward, mutates_args=())


@scene_flow_op.register_fake
def _(depth, *rest):  # type: ignore[no-untyped-def]
    return depth.new_empty(len(depth)), depth.new_empty(len(depth), dtype=torch.float64)


def backward(
    scale: Tensor, depth: Tensor, motion: Tensor, true_depth: Tensor, true_motion: Tensor, valid: Tensor,
    weight: Tensor | None, intrinsics: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """d_depth [B, T, H, W] and d_motion [B, 3, T-1, H, W], contiguous.

    scale: float64 [B], the gradient of each clip's loss over its sum of weights; the rest as in `forward`.
    """
    inputs, numbers, grid = launch_arguments(depth, motion, true_depth, true_motion, valid, weight, intrinsics)
    d_depth, d_motion = depth.new_empty(depth.shape), motion.new_empty(motion.shape)
    d_depth[:, -1:] = 0
    if d_motion.numel():
        launch(
            scene_flow_kernels.backward_kernel, grid, *inputs, scale.contiguous(), d_depth, d_motion, *numbers,
            HAS_WEIGHT=weight is not None, ROWS=ROWS, COLUMNS=COLUMNS,
            num_warps=4,
        )  # fmt: skip
    return d_depth, d_motion


scene_flow_backward_op = torch.library.custom_op("phys4d::scene_flow_backward", backward, mutates_args=())


@scene_flow_backward_op.register_fake
def _(scale, depth, motion, *rest):  # type: ignore[no-untyped-def]
    return depth.new_empty(depth.shape), motion.new_empty(motion.shape)


differentiable_once(scene_flow_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    total, *tensors = ctx.saved_tensors
    scale = torch.where(total > 0, grad.to(torch.float64) / torch.where(total > 0, total, 1), 0)
    return *scene_flow_backward_op(scale, *tensors), *[None] * 5


scene_flow_op.register_autograd(_backward, setup_context=_setup)
autocast_to_float32(scene_flow_op)


@cpu_kernel(scene_flow_op)
def _(depth, motion, true_depth, true_motion, valid, weight, intrinsics):  # type: ignore[no-untyped-def]
    arguments = (depth, motion, true_depth, true_motion, valid, weight, intrinsics)
    if not native.status()[0]:
        value, total = scene_flow_reference(*arguments)
        return value, total.double()
    kept, total = torch.ops.phys4d.native_scene_flow(*arguments)
    return (kept / torch.where(total > 0, total, 1)).to(depth.dtype), total


@cpu_kernel(scene_flow_backward_op)
def _(scale, depth, motion, true_depth, true_motion, valid, weight, intrinsics):  # type: ignore[no-untyped-def]
    rest = (true_depth, true_motion, valid, weight, intrinsics)
    if native.status()[0]:
        return torch.ops.phys4d.native_scene_flow_backward(scale, depth, motion, *rest)

    # Not by autograd, which is off inside an operator.
    found: Any = torch.func.vjp(lambda d, m: scene_flow_reference(d, m, *rest), depth, motion, has_aux=True)
    _, slope, total = found
    d_depth, d_motion = slope((scale * total).to(depth.dtype))
    return d_depth.contiguous(), d_motion.contiguous()
