"""Warp consistency: depth at t, moved by the predicted motion, must be the depth at t + 1.

    residual = D_{t+1}(u + du, v + dv) - (D_t(u, v) + dz)

D_{t+1} is sampled bilinearly in inverse depth: on a plane 1/z is affine in (u, v), so that the sample is
exact there, whereas bilinear z is off by centimetres on a slanted floor.
"""

from typing import Literal

import torch
from torch import Tensor

from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape, masked_mean


def sample_depth(depth: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Samples a depth map where each pixel lands, bilinearly in inverse depth.

    Args:
        depth: [..., H, W], metres; 0 where there is no surface (float32 or float64).
        flow: [2, ..., H, W] (du, dv) in pixels: pixel (row, column) reads depth at (row + dv, column + du).

    Returns:
        sampled: [..., H, W] metres, differentiable in depth and flow; 0 outside the mask.
        inside: bool [..., H, W], where all four neighbouring pixel centres exist and carry a surface.
    """
    height, width = depth.shape[-2:]
    expect_floating("depth", depth)
    expect_shape("flow", flow, (2, *depth.shape))
    rows = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None]
    columns = torch.arange(width, dtype=depth.dtype, device=depth.device)[None, :]
    column, row = columns + flow[0], rows + flow[1]
    inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    # Landing exactly on the last pixel centre belongs to the cell before it, so that four neighbours exist.
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


def warp_residual(depth: Tensor, motion: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """The per-pixel disagreement of depth and motion.

    Args:
        depth: [B, T, H, W], metres (float32 or float64).
        motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1.
        visible: bool [B, T-1, H, W]: the surface point is seen at t + 1, by the truth or by a teacher.

    Returns:
        residual: [B, T-1, H, W] metres, signed: sampled depth minus moved depth; 0 outside the mask.
        used: bool [B, T-1, H, W]: visible, and landing where depth at t + 1 can be sampled.

    Raises:
        ValueError: a shape or dtype that does not fit, naming the argument.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    clips, frames, height, width = depth.shape
    expect_shape("motion", motion, (clips, 3, frames - 1, height, width))
    expect_mask("visible", visible, (clips, frames - 1, height, width))
    motion = motion.to(depth.dtype)
    sampled, inside = sample_depth(depth[:, 1:], motion[:, :2].transpose(0, 1))
    used = visible & inside
    return torch.where(used, sampled - (depth[:, :-1] + motion[:, 2]), 0), used


def warp_consistency(
    depth: Tensor,
    motion: Tensor,
    visible: Tensor,
    *,
    weight: Tensor | None = None,
    loss: Literal["l1", "charbonnier", "relative"] = "l1",
) -> Tensor:
    """The warp-consistency loss of the fine-tuning phase (Phys4D; here in the forward form, both sides
    predicted).

    Args:
        depth, motion, visible: as in `warp_residual`.
        weight: [B, T-1, H, W], not negative; the mean is then weighted (divided by the sum of the clip's weights).
        loss: "l1" |r| in metres; "charbonnier" sqrt(r^2 + e^2) - e with e = 1 mm; "relative" |r| over the
            moved depth (detached, so that the loss cannot be lowered by pushing everything away).

    Returns:
        Scalar: the mean over clips of each clip's mean over its used pixels; 0 with zero gradient for a clip without
        any.

    Raises:
        ValueError: a shape, dtype or loss name that does not fit.
    """
    residual, used = warp_residual(depth, motion, visible)
    if weight is not None:
        expect_shape("weight", weight, residual.shape)
    if loss == "l1":
        error = residual.abs()
    elif loss == "charbonnier":
        error = (residual.square() + 1e-6).sqrt() - 1e-3
    elif loss == "relative":
        moved = (depth[:, :-1] + motion[:, 2]).detach()
        error = residual.abs() / torch.where(used, moved.abs().clamp_min(1e-3), 1)
    else:
        raise ValueError(f'loss: expected "l1", "charbonnier" or "relative", got "{loss}"')
    return masked_mean(error, used, weight)
