"""Occlusion masks of flow, from flow in both directions, or from depth and motion."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.kernels.dispatch import Backend, expect_one_device
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape
from phys4d.kernels.geometry.warps.splat import splat


def forward_backward_mask(
    forward: Tensor, backward: Tensor, *, relative: float = 0.01, absolute: float = 0.5
) -> Tensor:
    """The mask of pixels whose forward flow, followed by the backward flow at its end point, returns near the start.

        |f + b(x + f)|^2 < relative * (|f|^2 + |b(x + f)|^2) + absolute

    The criterion of Sundaram et al. 2010 and UnFlow (Meister et al. 2018) with their constants, also used by
    the Phys4D authors' Sim4VideoGen.

    Args:
        forward: [B, 2, H, W], pixels, t to t + 1 (float32 or float64).
        backward: [B, 2, H, W], pixels, t + 1 to t.
        relative: tolerated share of the squared lengths.
        absolute: tolerance in squared pixels.

    Returns:
        bool [B, H, W]; False also where the pixel leaves the image.

    Raises:
        ValueError: a shape, dtype or device that does not fit, naming the argument.
    """
    expect_shape("forward", forward, ("B", 2, "H", "W"))
    expect_floating("forward", forward)
    expect_shape("backward", backward, forward.shape)
    expect_one_device("forward_backward_mask", forward=forward, backward=backward)
    height, width = forward.shape[-2:]
    v = torch.arange(height, dtype=forward.dtype, device=forward.device)[:, None] + 0.5
    u = torch.arange(width, dtype=forward.dtype, device=forward.device)[None, :] + 0.5
    landed_u, landed_v = u + forward[:, 0], v + forward[:, 1]
    inside = (landed_u > 0) & (landed_u < width) & (landed_v > 0) & (landed_v < height)
    grid = torch.stack((landed_u / width * 2 - 1, landed_v / height * 2 - 1), dim=-1)
    returned = F.grid_sample(backward, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gap = (forward + returned).square().sum(dim=1)
    lengths = forward.square().sum(dim=1) + returned.square().sum(dim=1)
    return inside & (gap < relative * lengths + absolute)


class Occlusion(NamedTuple):
    """The state at t + 1 of the surface point of each pixel at t: three masks, bool [B, T-1, H, W].

    visible: visible at t + 1, as `warp_consistency` takes it. hidden: a nearer surface is in front of it. outside: it
    leaves the image, passes behind the camera, or its motion is NaN. All are false where there is no surface.
    """

    visible: Tensor
    hidden: Tensor
    outside: Tensor


def occlusion_mask(
    depth: Tensor, motion: Tensor, valid: Tensor | None = None, *, tolerance: float = 0.05, backend: Backend = "auto"
) -> Occlusion:
    """The visibility at t + 1 of the surface points of frame t, from depth and motion only.

    A point is hidden where its target pixel holds a depth that is nearer than its moved depth by more than the
    tolerance: of another point of frame t that moves there (`splat`), or of frame t + 1. The mask has no gradient, but
    a loss that uses it with predicted depth lets the prediction determine which pixels count, as with the z_test of
    `warp_consistency`.

    Args:
        depth: [B, T, H, W], metres; 0 where there is no surface (float32 or float64).
        motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1.
        valid: bool [B, T, H, W]; depth may have any value where it is false.
        tolerance: share of the moved depth. If too small, the next pixel of a steep surface hides the point; if too
            large, surfaces closely in front of the point are missed.
        backend: of `splat`.

    Returns:
        `Occlusion`, without a gradient.

    Raises:
        ValueError: a shape, dtype, device, tolerance or backend that does not fit.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames, height, width = depth.shape
    expect_shape("motion", motion, (clips, 3, frames - 1, height, width))
    if valid is not None:
        expect_mask("valid", valid, depth.shape)
    expect_one_device("occlusion_mask", depth=depth, motion=motion, valid=valid)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: expected a share from 0 to below 1, got {tolerance}")
    depth, motion = depth.detach(), motion.detach().to(depth.dtype)
    surface = depth > 0 if valid is None else (depth > 0) & valid
    now, moved = surface[:, :-1], depth[:, :-1] + motion[:, 2]
    v = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None] + 0.5 + motion[:, 1]
    u = torch.arange(width, dtype=depth.dtype, device=depth.device)[None, :] + 0.5 + motion[:, 0]
    inside = now & (u >= 0) & (u < width) & (v >= 0) & (v < height) & (moved > 0)
    landed = splat(depth.new_empty(clips, 0, *moved.shape[1:]), motion[:, :2], moved, now, backend=backend).depth
    there = torch.where(surface[:, 1:], depth[:, 1:], torch.inf)
    front = torch.minimum(there, torch.where(landed > 0, landed, torch.inf)).flatten(-2)
    target = torch.where(inside, v, 0).long() * width + torch.where(inside, u, 0).long()
    hidden = inside & (front.gather(-1, target.flatten(-2)).view_as(moved) < moved * (1 - tolerance))
    return Occlusion(inside & ~hidden, hidden, now & ~inside)
