"""Trajectories of points from RGB, depth and motion: every pixel of a frame is tracked through time."""

from typing import NamedTuple

import torch
from torch import Tensor

from phys4d.kernels.dispatch import Backend, choose_backend, expect_one_device
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape
from phys4d.kernels.geometry.unproject import into_world, lift
from phys4d.kernels.geometry.warps.flow_warp_ops import flow_warp_op
from phys4d.kernels.geometry.warps.flow_warp_reference import flow_warp_reference
from phys4d.kernels.geometry.warps.occlusion import occlusion_mask


class Trajectories(NamedTuple):
    """Tracks of the N = H * W pixels of one frame; pixel (row, column) has number row * W + column.

    points: [B, T-start, N, 3] metres. pixels: [B, T-start, N, 2], (u, v) with pixel centres at i + 0.5.
    valid: bool [B, T-start, N]; points and pixels are 0 where it is false. Once false it stays false.
    rgb: [B, N, 3] and instance: [B, N], of the start pixel; None where they were not given.
    """

    points: Tensor
    pixels: Tensor
    valid: Tensor
    rgb: Tensor | None
    instance: Tensor | None


class _Clip(NamedTuple):
    """Inputs of a step. labels: [B, T, H, W], 0 where depth is not valid; movers: [B, T-1, H, W], the same of motion.

    by_depth: labels are depths, compared with the tolerance; else they are instances, compared for equality.
    """

    inverse: Tensor
    motion: Tensor
    visible: Tensor
    labels: Tensor
    movers: Tensor
    by_depth: bool
    tolerance: float
    backend: str


class _Tracks(NamedTuple):
    """State at one frame, [B, H, W] each: position from pixel centre (0, 0), depth, validity, and the label there."""

    u: Tensor
    v: Tensor
    z: Tensor
    valid: Tensor
    label: Tensor


def lift_4d(
    depth: Tensor, motion: Tensor, intrinsics: Tensor, *, camera_to_world: Tensor | None = None,
    rgb: Tensor | None = None, instance: Tensor | None = None, valid: Tensor | None = None,
    visible: Tensor | None = None, start: int = 0, tolerance: float = 0.05, backend: Backend = "auto",
) -> Trajectories:  # fmt: skip
    """Tracks every pixel of frame `start` through the frames after it.

    At each frame a point moves by the motion at its position and takes the depth at its landing point, so that its
    depth does not drift. Both are interpolated bilinearly, depth as inverse depth, from pixels of the point's own
    surface only: those of its instance, or without instances those whose depth is that of the point within the
    tolerance. dz gives the depth for this comparison, and hidden points through `occlusion_mask`; it has no gradient. A
    track ends for good where the point leaves the image, where its pixel is not of its own surface, or where it is
    hidden. Within half a pixel of an edge of image or surface, depth and motion are those of the nearest pixels of that
    surface.

    Args:
        depth: [B, T, H, W], metres (float32 or float64).
        motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1. Motion that is not finite is ignored.
        intrinsics: [B, T, 3, 3], pixels, as in `unproject`.
        camera_to_world: [B, T, 4, 4], OpenCV axes; without it points are in the camera axes of each frame.
        rgb: [B, 3, T, H, W].
        instance: integer [B, T, H, W], not negative.
        valid: bool [B, T, H, W]; depth may have any value where it is false.
        visible: bool [B, T-1, H, W], whether the surface point at t is visible at t + 1; None: by `occlusion_mask`.
        start: the frame whose pixels are tracked.
        tolerance: share of depth, for `occlusion_mask` and for the comparison of surfaces without instances.
        backend: of `splat` and of the sampling; "reference" is differentiable twice.

    Returns:
        `Trajectories`, differentiable in depth and motion where valid. The same bits in every run.

    Raises:
        ValueError: a shape, dtype, device, start, tolerance or backend that does not fit.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames, height, width = depth.shape
    expect_shape("motion", motion, (clips, 3, frames - 1, height, width))
    expect_shape("intrinsics", intrinsics, (clips, frames, 3, 3))
    if camera_to_world is not None:
        expect_shape("camera_to_world", camera_to_world, (clips, frames, 4, 4))
    if rgb is not None:
        expect_shape("rgb", rgb, (clips, 3, frames, height, width))
    if instance is not None:
        expect_shape("instance", instance, depth.shape)
        if instance.is_floating_point() or instance.dtype == torch.bool:
            raise ValueError(f"instance: expected integers, got {str(instance.dtype).removeprefix('torch.')}")
    if valid is not None:
        expect_mask("valid", valid, depth.shape)
    if visible is not None:
        expect_mask("visible", visible, (clips, frames - 1, height, width))
    expect_one_device(
        "lift_4d", depth=depth, motion=motion, intrinsics=intrinsics, camera_to_world=camera_to_world, rgb=rgb,
        instance=instance, valid=valid, visible=visible,
    )  # fmt: skip
    if not 0 <= start < frames:
        raise ValueError(f"start: expected a frame from 0 to {frames - 1}, got {start}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: expected a share from 0 to below 1, got {tolerance}")
    motion = motion.to(depth.dtype)
    if visible is None:
        visible = occlusion_mask(depth, motion, valid, tolerance=tolerance, backend=backend).visible
    served = choose_backend(backend, "lift_4d", depth)
    tracks = _follow(_clip(depth, motion, valid, instance, visible, tolerance, served), depth, start)
    u, v, z, alive, _ = (torch.stack(parts, 1) for parts in zip(*tracks, strict=True))
    points = lift(u + 0.5, v + 0.5, z, intrinsics[:, start:])
    if camera_to_world is not None:
        points = into_world(points, camera_to_world[:, start:])
    pixels = torch.stack((u, v), -1) + 0.5
    return Trajectories(
        torch.where(alive[..., None], points, 0).flatten(2, 3),
        torch.where(alive[..., None], pixels, 0).flatten(2, 3),
        alive.flatten(2, 3),
        None if rgb is None else rgb[:, :, start].flatten(-2).transpose(-1, -2),
        None if instance is None else instance[:, start].flatten(-2),
    )


def _follow(clip: _Clip, depth: Tensor, start: int) -> list[_Tracks]:
    """The tracks at frame `start` and at every later frame."""
    row, column = (torch.arange(size, dtype=depth.dtype, device=depth.device) for size in depth.shape[-2:])
    v, u = (axis.expand_as(depth[:, 0]) for axis in (row[:, None], column[None, :]))
    alive = clip.labels[:, start] > 0
    tracks = [_Tracks(u, v, torch.where(alive, depth[:, start], 1), alive, _wanted(alive, clip.labels[:, start]))]
    for t in range(start, depth.shape[1] - 1):
        tracks.append(_step(clip, tracks[-1], tracks[0], t))
    return tracks


def _clip(
    depth: Tensor, motion: Tensor, valid: Tensor | None, instance: Tensor | None, visible: Tensor, tolerance: float,
    backend: str,
) -> _Clip:  # fmt: skip
    surface = (depth > 0) & (depth < torch.inf)
    surface = surface if valid is None else surface & valid
    labels = torch.where(surface, depth.detach() if instance is None else instance.to(depth.dtype) + 1, 0)
    movers = torch.where(motion.isfinite().all(1), labels[:, :-1], 0)
    inverse = torch.where(surface, 1 / torch.where(surface, depth, 1), 0)
    by_depth = instance is None
    return _Clip(inverse, motion, visible, labels, movers, by_depth, tolerance if by_depth else 0.0, backend)


def _step(clip: _Clip, at: _Tracks, first: _Tracks, t: int) -> _Tracks:
    """The tracks at t + 1 from those at t. Ended tracks stay at their start pixel, where all values are finite."""
    height, width = at.u.shape[-2:]
    moves, found = _read(clip, clip.motion[:, :, t : t + 1], clip.movers[:, t : t + 1], at, first)
    seen = clip.visible[:, t].flatten(-2).gather(-1, _containing(at, width)).view_as(found)
    u, v = at.u + moves[:, 0], at.v + moves[:, 1]
    alive = at.valid & found & seen & (u + 0.5 >= 0) & (u + 0.5 < width) & (v + 0.5 >= 0) & (v + 0.5 < height)
    label = at.z.detach() + moves[:, 2].detach() if clip.by_depth else at.label
    landed = _Tracks(torch.where(alive, u, first.u), torch.where(alive, v, first.v), at.z, alive, _wanted(alive, label))
    there = clip.labels[:, t + 1].flatten(-2).gather(-1, _containing(landed, width)).view_as(label)
    inverse, found = _read(clip, clip.inverse[:, None, t + 1 : t + 2], clip.labels[:, t + 1 : t + 2], landed, first)
    alive = alive & found & ((there - landed.label).abs() <= clip.tolerance * landed.label)
    z = torch.where(alive, 1 / torch.where(alive, inverse[:, 0], 1), 1)
    return landed._replace(z=z, valid=alive, label=_wanted(alive, z.detach() if clip.by_depth else label))


def _wanted(alive: Tensor, label: Tensor) -> Tensor:
    """The labels of the tracks; -1, the label of no pixel, for ended ones."""
    return torch.where(alive, label, -1)


def _containing(at: _Tracks, width: int) -> Tensor:
    """int64 [B, H * W]: the pixel that a point lies in."""
    return ((at.v.detach() + 0.5).long() * width + (at.u.detach() + 0.5).long()).flatten(-2)


def _read(clip: _Clip, frame: Tensor, labels: Tensor, at: _Tracks, first: _Tracks) -> tuple[Tensor, Tensor]:
    """Samples a frame [B, C, 1, H, W] at the tracks, from their own surface: values [B, C, H, W], and a mask."""
    flow = torch.stack((at.u - first.u, at.v - first.v), 1)[:, :, None]
    warp = flow_warp_reference if clip.backend == "reference" else flow_warp_op
    values, found = warp(frame, flow, labels, at.label[:, None], clip.tolerance, False)
    return values[:, :, 0], found[:, 0]
