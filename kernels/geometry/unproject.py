"""Lifting depth maps to points."""

import torch
from torch import Tensor

from phys4d.kernels.geometry.shapes import expect_floating, expect_shape


def unproject(depth: Tensor, intrinsics: Tensor, camera_to_world: Tensor | None = None) -> Tensor:
    """Lifts every pixel centre to the 3D point that it shows.

    Args:
        depth: [B, T, H, W], metres along the optical axis (float32 or float64).
        intrinsics: [B, T, 3, 3], pixels, upper triangular with last row (0, 0, 1); pixel centres at i + 0.5.
        camera_to_world: [B, T, 4, 4], OpenCV axes (x right, y down, z forward); without it the points stay in
            the camera's own frame.

    Returns:
        Points [B, T, H, W, 3] in metres. A pixel of depth 0 (no surface) lands on the camera centre: mask it.

    Raises:
        ValueError: a shape or dtype that does not fit, naming the argument.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames, height, width = depth.shape
    expect_shape("intrinsics", intrinsics, (clips, frames, 3, 3))
    intrinsics = intrinsics.to(depth.dtype)
    v = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None] + 0.5
    u = torch.arange(width, dtype=depth.dtype, device=depth.device)[None, :] + 0.5
    entry = intrinsics[..., None, None]
    ray_y = (v - entry[:, :, 1, 2]) / entry[:, :, 1, 1]
    ray_x = (u - entry[:, :, 0, 2] - entry[:, :, 0, 1] * ray_y) / entry[:, :, 0, 0]
    points = torch.stack((ray_x * depth, ray_y.expand_as(depth) * depth, depth), dim=-1)
    if camera_to_world is None:
        return points
    expect_shape("camera_to_world", camera_to_world, (clips, frames, 4, 4))
    camera_to_world = camera_to_world.to(depth.dtype)
    rotation, translation = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    return torch.einsum("btij,bthwj->bthwi", rotation, points) + translation[:, :, None, None]
