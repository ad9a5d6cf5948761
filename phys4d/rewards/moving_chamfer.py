"""Reward: minus the 4D Chamfer distance, in metres, between what moves in a generated clip and in the truth.

The Chamfer distance of whole clouds is nearly blind to motion (most points are floor and wall) and was hacked
in a trial; so only points whose appearance changed since the first frame count. The rule is the same for both
sides and looks at each side's own video, so that the true video with true depth and motion scores exactly 0.

Each point is compared twice: where depth puts it at t, and where motion takes it at t + 1. So RGB says which
points count, depth where they are, motion where they go, and an error of any of the three costs metres. The camera
must stand still: under a moving one everything looks different from the first frame.
"""

from typing import Literal

import torch
from torch import Tensor

from phys4d.kernels.geometry import advect, chamfer_4d, chamfer_objects, pack, unproject


def changed(video: Tensor, threshold: float) -> Tensor:
    """Where a video looks different from its first frame: the largest channel difference is above threshold.

    video: float [B, 3, T, H, W] in [-1, 1]. Returns bool [B, T, H, W].
    """
    return (video - video[:, :, :1]).abs().amax(dim=1) > threshold


@torch.no_grad()
def moving_chamfer(
    video: Tensor,
    depth: Tensor,
    motion: Tensor,
    *,
    truth_video: Tensor,
    truth_depth: Tensor,
    truth_motion: Tensor,
    intrinsics: Tensor,
    truth_instance: Tensor | None = None,
    points: Literal["changed", "all"] = "changed",
    frame_stride: int = 2,
    threshold: float = 0.3,
    cap: float = 2.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores generated clips; higher is better, 0 is the truth itself.

    Args:
        video: [B, 3, T, H, W] in [-1, 1], generated (float32 or float64).
        depth: [B, T, H, W] metres, predicted for it; 0 where there is no surface.
        motion: [B, 3, T-1, H, W] (du px, dv px, dz m), predicted for it.
        truth_video: [B, 3, T, H, W] in [-1, 1], the simulator's clip from the same first frame.
        truth_depth: [B, T, H, W] metres; 0 where there is no surface.
        truth_motion: [B, 3, T-1, H, W].
        intrinsics: [B, T, 3, 3] pixels. Both sides share the camera, and Chamfer does not change under its
            pose.
        truth_instance: uint8 [B, T, H, W], 0 and up. Where given, both distances of a frame are means over the objects
            that its truth shows, each of which counts as much as any other; a generated point belongs to the
            object of the true point nearest to it.
        points: "all" scores whole clouds; nearly blind to motion, for comparison.
        frame_stride: scores frames stride, 2 * stride, ... (the first frame is given, hence never scored).
        threshold: change of appearance, out of 2, that makes a pixel count.
        cap: metres; the worst that a frame can score, and its score when only one side shows a change.

    Returns:
        reward: float [B], minus the mean of the two distances over the scored frames; the last frame of a clip
            has no motion and is scored by its points alone.
        parts: per clip [B], "points" and "truth_points" (mean per scored frame), "one_sided" (share of the
            scored frames in which only one side shows a change).

    Raises:
        ValueError: shapes that do not fit, or no frame to score.
    """
    if video.shape != truth_video.shape:
        raise ValueError(f"truth_video: expected shape {list(video.shape)}, got {list(truth_video.shape)}")
    if depth.shape != truth_depth.shape or depth.shape != video[:, 0].shape:
        raise ValueError(
            f"depth and truth_depth: expected shape {list(video[:, 0].shape)}, "
            f"got {list(depth.shape)} and {list(truth_depth.shape)}"
        )
    if len(range(frame_stride, depth.shape[1], frame_stride)) == 0:
        raise ValueError(f"frame_stride: {frame_stride} leaves no frame of {depth.shape[1]} to score")
    least = threshold if points == "changed" else -1.0
    ours_mask = changed(video, least) & (depth > 0)
    truth_mask = changed(truth_video, least) & (truth_depth > 0)
    ours = _clouds(depth, motion, intrinsics, ours_mask, frame_stride)
    truth = _clouds(truth_depth.to(depth.dtype), truth_motion, intrinsics, truth_mask, frame_stride)
    if truth_instance is None:
        distances = [
            chamfer_4d(x, y, x_lengths=n, y_lengths=m, cap=cap) for (x, n), (y, m) in zip(ours, truth, strict=True)
        ]
    else:
        labels = _labels(truth_instance, truth_mask, frame_stride)
        distances = [
            _objects_4d(x, n, y, m, labels, cap) for (x, n), (y, m) in zip(ours, truth, strict=True)
        ]
    lengths, truth_lengths = ours[0][1], truth[0][1]
    parts = {
        "points": lengths.to(depth.dtype).mean(dim=1),
        "truth_points": truth_lengths.to(depth.dtype).mean(dim=1),
        "one_sided": ((lengths > 0) != (truth_lengths > 0)).to(depth.dtype).mean(dim=1),
    }
    return -torch.stack(distances).mean(dim=0), parts


def _clouds(
    depth: Tensor, motion: Tensor, intrinsics: Tensor, mask: Tensor, stride: int
) -> list[tuple[Tensor, Tensor]]:
    """The masked points of the scored frames, at t and carried to t + 1: [B, T', N, 3] metres, counts [B, T'].

    The second list entry is absent where no scored frame has a next one.
    """
    clouds = []
    for points in (unproject(depth, intrinsics), advect(depth, motion, intrinsics)):
        frames = slice(stride, points.shape[1], stride)
        if points[:, frames].shape[1]:
            clouds.append(pack(points[:, frames].flatten(2, 3), mask[:, : points.shape[1]][:, frames].flatten(2)))
    return clouds


def _labels(instance: Tensor, mask: Tensor, stride: int) -> Tensor:
    """The instances of the masked pixels, in the order of `_clouds`: [B, T', N]."""
    pixels = instance[:, stride::stride].flatten(2)
    return pack(pixels[..., None].expand(*pixels.shape, 3).float(), mask[:, stride::stride].flatten(2))[0][..., 0]


def _objects_4d(x: Tensor, n: Tensor, y: Tensor, m: Tensor, labels: Tensor, cap: float) -> Tensor:
    """[B]: mean over frames of the mean over true objects of the Chamfer distance, capped per frame."""
    flat = (t.flatten(0, 1) for t in (x, y, labels[:, : y.shape[1], : y.shape[2]]))
    per_frame = chamfer_objects(*flat, x_lengths=n.flatten(), y_lengths=m.flatten(), cap=cap)
    return per_frame.view(x.shape[:2]).mean(dim=1)
