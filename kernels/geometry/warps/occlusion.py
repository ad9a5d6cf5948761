"""Which flow vectors can be trusted: from flow both ways, or from depth and motion."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.kernels.dispatch import Backend
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape
from phys4d.kernels.geometry.warps.splat import splat


def forward_backward_mask(
    forward: Tensor, backward: Tensor, *, relative: float = 0.01, absolute: float = 0.5
) -> Tensor:
    """Keeps pixels whose forward flow, followed by the backward flow found there, returns near its start.

        |f + b(x + f)|^2 < relative * (|f|^2 + |b(x + f)|^2) + absolute

    The criterion of Sundaram et al. 2010 and UnFlow (Meister et al. 2018) with their constants, also used by
    the Phys4D authors' Sim4VideoGen.

    Args:
        forward: [B, 2, H, W], pixels, t to t + 1 (float32 or float64).
        backward: [B, 2, H, W], pixels, t + 1 to t.
        relative: share of the squared lengths that is forgiven.
        absolute: squared pixels that are forgiven.

    Returns:
        bool [B, H, W]; False also where the pixel leaves the image.

    Raises:
        ValueError: a shape or dtype that does not fit, naming the argument.
    """
    expect_shape("forward", forward, ("B", 2, "H", "W"))
    expect_floating("forward", forward)
    expect_shape("backward", backward, forward.shape)
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
    """What becomes of the surface seen at t: bool [B, T-1, H, W] each; none of them where there is no surface.

    visible: still seen at t + 1, what `warp_consistency` wants. hidden: something nearer is in front of it. outside: it
    leaves the picture, passes behind the camera, or its motion is not a number.
    """

    visible: Tensor
    hidden: Tensor
    outside: Tensor


def occlusion_mask(
    depth: Tensor, motion: Tensor, valid: Tensor | None = None, *, tolerance: float = 0.05, backend: Backend = "auto"
) -> Occlusion:
    """Which surface points of frame t are still seen at t + 1, from depth and motion alone.

    A point is hidden where something in the pixel that it moves to is nearer than its moved depth by more than the
    tolerance: another point of frame t that moves there (`splat`), or the depth of frame t + 1. Whatever masks by it
    judges detached numbers; still a prediction then chooses what it is judged by, as with warp_consistency's z_test.

    Args:
        depth: [B, T, H, W], metres; 0 where there is no surface (float32 or float64).
        motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1.
        valid: bool [B, T, H, W], where depth is one; elsewhere it may be anything.
        tolerance: share of the moved depth. Smaller, it calls a steep surface hidden by its own next pixel; larger, it
            misses what hides closely.
        backend: of `splat`.

    Returns:
        `Occlusion`, without a gradient.

    Raises:
        ValueError: a shape, dtype, tolerance or backend that does not fit.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames, height, width = depth.shape
    expect_shape("motion", motion, (clips, 3, frames - 1, height, width))
    if valid is not None:
        expect_mask("valid", valid, depth.shape)
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
