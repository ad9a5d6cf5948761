"""The definition of warp consistency in plain torch, against which the kernels are tested.

    residual = D_{t+1}(u + du, v + dv) - (D_t(u, v) + dz)

D_{t+1} is sampled bilinearly in inverse depth: on a plane 1/z is affine in (u, v), so that the sample is exact, whereas
bilinear z has errors of centimetres on a slanted floor.
"""

import torch
from torch import Tensor

from phys4d.kernels.dispatch import expect_one_device
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape

LOSSES = ("l1", "charbonnier", "relative", "squared")  # the kernels identify them by their index


def sample_depth(depth: Tensor, flow: Tensor, *, clamp: bool = False) -> tuple[Tensor, Tensor]:
    """Samples a depth map at the landing point of each pixel, bilinearly in inverse depth.

    Args:
        depth: [..., H, W], metres; 0 where there is no surface (float32 or float64).
        flow: [2, ..., H, W] (du, dv) in pixels: pixel (row, column) reads depth at (row + dv, column + du).
        clamp: points outside the image sample its border, and flow gets no gradient along that axis there.

    Returns:
        sampled: [..., H, W] metres, differentiable in depth and flow; 0 outside the mask.
        inside: bool [..., H, W], where all four neighbouring pixel centres exist and have a surface (a neighbour of
            weight 0 need not).

    Raises:
        ValueError: a shape, dtype or device that does not fit, naming the argument.
    """
    height, width = depth.shape[-2:]
    expect_floating("depth", depth)
    expect_shape("flow", flow, (2, *depth.shape))
    rows = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None]
    columns = torch.arange(width, dtype=depth.dtype, device=depth.device)[None, :]
    column, row = columns + flow[0], rows + flow[1]
    if clamp:
        column, row = _clamped(column, width - 1), _clamped(row, height - 1)
    inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    # A point on the last pixel centre belongs to the cell before it, so that four neighbours exist.
    left = column.detach().nan_to_num().floor().clamp(0, max(width - 2, 0))
    top = row.detach().nan_to_num().floor().clamp(0, max(height - 2, 0))
    x = torch.where(inside, column - left, 0)
    y = torch.where(inside, row - top, 0)
    surface = depth > 0
    inverse = torch.where(surface, 1 / torch.where(surface, depth, 1), 0).flatten(-2)
    first = (top * width + left).long()
    right, below = int(width > 1), width if height > 1 else 0

    def tap(offset: int) -> Tensor:
        return inverse.gather(-1, (first + offset).flatten(-2)).view_as(depth)

    corners = (tap(0), tap(right), tap(below), tap(below + right))
    weights = ((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y)
    for corner, weight in zip(corners, weights, strict=True):
        inside = inside & ((corner > 0) | (weight == 0))
    mixed = sum((corner * weight for corner, weight in zip(corners, weights, strict=True)), torch.zeros_like(x))
    return torch.where(inside, 1 / torch.where(inside, mixed, 1), 0), inside


def _clamped(position: Tensor, last: int) -> Tensor:
    # By selection: torch's clamp has a gradient exactly at the border, and the kernels have none.
    within = torch.where(position < 0, torch.zeros_like(position), position)
    return torch.where(position > last, torch.full_like(position, last), within)


def warp_residual(depth: Tensor, motion: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """The residual of depth and motion per pixel.

    Args:
        depth: [B, T, H, W], metres (float32 or float64).
        motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1.
        visible: bool [B, T-1, H, W]: the surface point is visible at t + 1, from the truth or a teacher.

    Returns:
        residual: [B, T-1, H, W] metres, signed: sampled depth minus moved depth; 0 outside the mask.
        used: bool [B, T-1, H, W]: visible, and depth at t + 1 can be sampled at the landing point.

    Raises:
        ValueError: a shape, dtype or device that does not fit, naming the argument.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    clips, frames, height, width = depth.shape
    expect_shape("motion", motion, (clips, 3, frames - 1, height, width))
    expect_mask("visible", visible, (clips, frames - 1, height, width))
    expect_one_device("warp_residual", depth=depth, motion=motion, visible=visible)
    residual, _, used = _residual(depth, motion.to(depth.dtype), visible, None, -1.0, False)
    return residual, used


def _residual(
    depth: Tensor, motion: Tensor, visible: Tensor | None, truth: Tensor | None, z_test: float, clamp: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual, moved depth and used, each [B, T-1, H, W]."""
    sign, source, still = (1, depth[:, 1:], depth[:, :-1]) if truth is None else (-1, depth[:, :-1], truth[:, 1:])
    sampled, used = sample_depth(source, sign * motion[:, :2].transpose(0, 1), clamp=clamp)
    moved = still + sign * motion[:, 2]
    if visible is not None:
        used = used & visible
    if z_test >= 0:
        used = used & ~(sampled < moved * (1 - z_test)).detach()
    return torch.where(used, sampled - moved, 0), moved, used


def warp_reference(
    depth: Tensor, motion: Tensor, visible: Tensor | None, weight: Tensor | None, truth: Tensor | None,
    loss: str, z_test: float, clamp: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Per clip [B] the loss, the sum of weights and the number of used pixels, int64; arguments as of the operator.

    With `truth` it is the backward form: frame t of depth, sampled at x - flow, against truth at t + 1 minus dz.
    """
    residual, moved, used = _residual(depth, motion, visible, truth, z_test, clamp)
    if loss == "l1":
        error = residual.abs()
    elif loss == "charbonnier":
        error = (residual.square() + 1e-6).sqrt() - 1e-3
    elif loss == "relative":
        error = residual.abs() / torch.where(used, moved.detach().abs().clamp_min(1e-3), 1)
    else:
        error = residual.square()
    factor = used.to(depth.dtype) if weight is None else torch.where(used, weight, 0)
    total = factor.flatten(1).sum(1)
    kept = (error * factor).flatten(1).sum(1)
    return kept / torch.where(total > 0, total, 1), total, used.flatten(1).sum(1)
