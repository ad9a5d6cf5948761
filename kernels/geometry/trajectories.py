"""From RGB, depth and motion to trajectories of points: every pixel of a frame followed through time."""

from typing import NamedTuple

import torch
from torch import Tensor

from phys4d.kernels.geometry.choice import Backend, chosen
from phys4d.kernels.geometry.flow_warp_ops import flow_warp_op
from phys4d.kernels.geometry.flow_warp_reference import flow_warp_reference
from phys4d.kernels.geometry.occlusion import occlusion_mask
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape
from phys4d.kernels.geometry.unproject import into_world, lift


class Trajectories(NamedTuple):
    """Points that start at the pixels of one frame, N = H * W of them; row * W + column is the number of a pixel.

    points: [B, T-start, N, 3] metres. pixels: [B, T-start, N, 2], (u, v) with pixel centres at i + 0.5.
    valid: bool [B, T-start, N]; points and pixels are 0 where it is not. It never comes back once it has ended.
    rgb: [B, N, 3] and instance: [B, N], of the start pixel; None where they were not given.
    """

    points: Tensor
    pixels: Tensor
    valid: Tensor
    rgb: Tensor | None
    instance: Tensor | None


class _Clip(NamedTuple):
    """What a step reads. labels, movers: int32 [B, T, H, W] and [B, T-1, H, W], 0 where nothing may be read."""

    inverse: Tensor
    motion: Tensor
    visible: Tensor
    labels: Tensor
    movers: Tensor
    backend: str


class _Tracks(NamedTuple):
    """State at one frame, [B, H, W] each: position from pixel centre (0, 0), depth, validity, label to stay on."""

    u: Tensor
    v: Tensor
    z: Tensor
    valid: Tensor
    label: Tensor


def lift_4d(
    depth: Tensor, motion: Tensor, intrinsics: Tensor, *, camera_to_world: Tensor | None = None,
    rgb: Tensor | None = None, instance: Tensor | None = None, valid: Tensor | None = None,
    visible: Tensor | None = None, start: int = 0, backend: Backend = "auto",
) -> Trajectories:  # fmt: skip
    """Follows every pixel of frame `start` through the frames after it.

    At each frame a point moves by the motion found at its place there, and then takes the depth found where it lands:
    bilinearly, inverse depth, from pixels with a surface (of its own instance, if given) alone. So its depth does not
    drift; dz decides, with `occlusion_mask`, who is hidden. It ends for good where it leaves the picture, where the
    pixel that it lands in shows no surface or another instance, or where it is hidden.

    Args:
        depth: [B, T, H, W], metres (float32 or float64).
        motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1. One that is not finite is not read.
        intrinsics: [B, T, 3, 3], pixels, as in `unproject`.
        camera_to_world: [B, T, 4, 4], OpenCV axes; without it points are in the axes of each frame's own camera.
        rgb: [B, 3, T, H, W]. instance: integer [B, T, H, W], not negative. valid: bool [B, T, H, W], where depth is
            one; elsewhere it may be anything.
        visible: bool [B, T-1, H, W], whether what is seen at t is seen at t + 1; else `occlusion_mask` finds out.
        start: the frame whose pixels are followed.
        backend: of `splat` and of the sampling; "reference" is differentiable twice.

    Returns:
        `Trajectories`, differentiable in depth and motion where valid. The same bits in every run.

    Raises:
        ValueError: a shape, dtype, start or backend that does not fit.
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
    if not 0 <= start < frames:
        raise ValueError(f"start: expected a frame from 0 to {frames - 1}, got {start}")
    motion = motion.to(depth.dtype)
    if visible is None:
        visible = occlusion_mask(depth, motion, valid, backend=backend).visible
    tracks = _follow(depth, motion, valid, instance, visible, start, backend)
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


def _follow(
    depth: Tensor, motion: Tensor, valid: Tensor | None, instance: Tensor | None, visible: Tensor, start: int,
    backend: Backend,
) -> list[_Tracks]:  # fmt: skip
    """The tracks at frame `start` and at each after it."""
    surface = (depth > 0) & (depth < torch.inf)
    surface = surface if valid is None else surface & valid
    labels = torch.where(surface, 1 if instance is None else instance.to(torch.int32) + 1, 0).to(torch.int32)
    finite = motion.isfinite().all(1)
    clip = _Clip(
        torch.where(surface, 1 / torch.where(surface, depth, 1), 0), motion, visible, labels,
        torch.where(finite, labels[:, :-1], 0), chosen(backend, "lift_4d", depth),
    )  # fmt: skip
    row, column = (torch.arange(size, dtype=depth.dtype, device=depth.device) for size in depth.shape[-2:])
    v, u = (axis.expand_as(depth[:, 0]) for axis in (row[:, None], column[None, :]))
    alive = surface[:, start]
    tracks = [_Tracks(u, v, torch.where(alive, depth[:, start], 1), alive, torch.where(alive, labels[:, start], -1))]
    for t in range(start, depth.shape[1] - 1):
        tracks.append(_step(clip, tracks[-1], tracks[0], t))
    return tracks


def _step(clip: _Clip, at: _Tracks, first: _Tracks, t: int) -> _Tracks:
    """From frame t to t + 1. What ends rests at its start pixel, so that nothing strange is computed with."""
    height, width = at.u.shape[-2:]
    pixel = _containing(at.u, at.v, width)
    found, moves = _read(clip, clip.motion[:, :, t : t + 1], clip.movers[:, t : t + 1], at, first)
    seen = clip.visible[:, t].flatten(-2).gather(-1, pixel).view_as(moves)
    alive = at.valid & moves & seen
    u, v = at.u + found[:, 0], at.v + found[:, 1]
    alive = alive & (u + 0.5 >= 0) & (u + 0.5 < width) & (v + 0.5 >= 0) & (v + 0.5 < height)
    u, v = torch.where(alive, u, first.u), torch.where(alive, v, first.v)
    label = clip.labels[:, t + 1].flatten(-2).gather(-1, _containing(u, v, width)).view_as(at.label)
    alive = alive & (label == at.label)
    landed = _Tracks(u, v, at.z, alive, at.label)
    inverse, there = _read(clip, clip.inverse[:, None, t + 1 : t + 2], clip.labels[:, t + 1 : t + 2], landed, first)
    alive = alive & there
    return _Tracks(u, v, torch.where(alive, 1 / torch.where(alive, inverse[:, 0], 1), 1), alive, at.label)


def _containing(u: Tensor, v: Tensor, width: int) -> Tensor:
    """int64 [B, H * W]: the pixel that a point lies in."""
    return ((v.detach() + 0.5).long() * width + (u.detach() + 0.5).long()).flatten(-2)


def _read(clip: _Clip, frame: Tensor, labels: Tensor, at: _Tracks, first: _Tracks) -> tuple[Tensor, Tensor]:
    """What one frame [B, C, 1, H, W] shows at the tracks, of their labels, [B, C, H, W], and whether any."""
    flow = torch.stack((at.u - first.u, at.v - first.v), 1)[:, :, None]
    warp = flow_warp_reference if clip.backend == "reference" else flow_warp_op
    values, found = warp(frame, flow, labels, at.label[:, None], False)
    return values[:, :, 0], found[:, 0]
