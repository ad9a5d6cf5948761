"""Lifting depth maps to points."""

import torch
from torch import Tensor

from phys4d.kernels.dispatch import expect_one_device
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
        ValueError: a shape, dtype or device that does not fit, naming the argument.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames = depth.shape[:2]
    expect_shape("intrinsics", intrinsics, (clips, frames, 3, 3))
    expect_one_device("unproject", depth=depth, intrinsics=intrinsics, camera_to_world=camera_to_world)
    v, u = _pixel_centres(depth)
    points = lift(u, v, depth, intrinsics)
    if camera_to_world is None:
        return points
    expect_shape("camera_to_world", camera_to_world, (clips, frames, 4, 4))
    return into_world(points, camera_to_world)


def advect(depth: Tensor, motion: Tensor, intrinsics: Tensor) -> Tensor:
    """Where the point seen at each pixel is one frame later.

    Args:
        depth: [B, T, H, W], metres (float32 or float64).
        motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1.
        intrinsics: [B, T, 3, 3], pixels, as in `unproject`.

    Returns:
        Points [B, T-1, H, W, 3] in metres, in the axes of the camera of t + 1.

    Raises:
        ValueError: a shape, dtype or device that does not fit, naming the argument.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames, height, width = depth.shape
    expect_shape("motion", motion, (clips, 3, frames - 1, height, width))
    expect_shape("intrinsics", intrinsics, (clips, frames, 3, 3))
    expect_one_device("advect", depth=depth, motion=motion, intrinsics=intrinsics)
    motion = motion.to(depth.dtype)
    v, u = _pixel_centres(depth)
    return lift(u + motion[:, 0], v + motion[:, 1], depth[:, :-1] + motion[:, 2], intrinsics[:, 1:])


def _pixel_centres(depth: Tensor) -> tuple[Tensor, Tensor]:
    """v [H, 1] and u [1, W] of the pixel centres."""
    v, u = (torch.arange(n, dtype=depth.dtype, device=depth.device) + 0.5 for n in depth.shape[-2:])
    return v[:, None], u[None, :]


def lift(u: Tensor, v: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points [B, T, H, W, 3] seen at pixel coordinates u, v and depth, which broadcast to [B, T, H, W]."""
    entry = intrinsics.to(depth.dtype)[..., None, None]
    ray_y = (v - entry[:, :, 1, 2]) / entry[:, :, 1, 1]
    ray_x = (u - entry[:, :, 0, 2] - entry[:, :, 0, 1] * ray_y) / entry[:, :, 0, 0]
    return torch.stack((ray_x * depth, ray_y.expand_as(depth) * depth, depth), dim=-1)


def into_world(points: Tensor, camera_to_world: Tensor) -> Tensor:
    """Points [B, T, H, W, 3] of each frame's camera in world axes; camera_to_world: [B, T, 4, 4]."""
    camera_to_world = camera_to_world.to(points.dtype)
    rotation, translation = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    return torch.einsum("btij,bthwj->bthwi", rotation, points) + translation[:, :, None, None]
