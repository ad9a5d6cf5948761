"""Tracks of surface points: those of the simulator, those that follow depth and motion, and their agreement.

The agreement is TAPVid-3D's (Koppula et al. 2024; google-deepmind/tapnet, `tapvid3d/evaluation/metrics.py`).
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from phys4d.simulation.mesh_sequence import Track

PIXELS = (1, 2, 4, 8, 16)
"""Thresholds of TAPVid-3D: pixels, each of which is depth / focal length metres at a true point."""


class Agreement(NamedTuple):
    """Agreement of tracks, float64 [B] each, 0 to 1; NaN for a clip without a track that is visible in the truth.

    average_jaccard: mean over `PIXELS` of true positives / (visible true points + false positives).
    points_within: mean over `PIXELS` of the share of visible true points that the track is within.
    occlusion_accuracy: share of points whose visibility is that of the truth.
    """

    average_jaccard: Tensor
    points_within: Tensor
    occlusion_accuracy: Tensor


def agreement(
    points: Tensor, visible: Tensor, truth: Tensor, truth_visible: Tensor, focal: Tensor, chosen: Tensor | None = None
) -> Agreement:
    """TAPVid-3D's metrics with the scaling "median" and thresholds by depth.

    Tracks are first multiplied by the quotient of the median distances from the camera, of points that both sides see.
    Without such points they stay as they are.

    points, truth: [B, T, N, 3], metres, in the axes of each frame's camera.
    visible, truth_visible: bool [B, T, N].
    focal: [B, T], pixels, geometric mean of both.
    chosen: bool [B, N], tracks that count; None: all.
    """
    if chosen is None:
        chosen = torch.ones_like(truth_visible[:, 0])
    kept = chosen[:, None].expand_as(visible)
    scales = [_scale(*clip) for clip in zip(points, truth, visible & truth_visible & kept, strict=True)]
    error = (points * points.new_tensor(scales).view(-1, 1, 1, 1) - truth).square().sum(dim=-1)
    metres = truth[..., 2] / focal[..., None]
    truth_visible, visible = truth_visible & kept, visible & kept
    positives = _count(truth_visible)
    jaccard, within = [], []
    for pixels in PIXELS:
        near = error < (pixels * metres).square()
        hit, false = near & truth_visible, visible & ~(near & truth_visible)
        jaccard.append(_count(hit & visible) / (positives + _count(false)))
        within.append(_count(hit) / positives)
    same = _count((visible == truth_visible) & kept) / _count(kept)
    parts = (torch.stack(jaccard).mean(dim=0), torch.stack(within).mean(dim=0), same)
    return Agreement(*(torch.where(positives > 0, part, torch.nan) for part in parts))


def _count(flags: Tensor) -> Tensor:
    return flags.flatten(1).sum(dim=1).double()


def _scale(points: Tensor, truth: Tensor, both: Tensor) -> float:
    if not both.any():
        return 1.0
    norms = [cloud[both].double().norm(dim=-1).clamp_min(1e-6) for cloud in (truth, points)]
    return float(norms[0].quantile(0.5) / norms[1].quantile(0.5))


def track_error(points: Tensor, valid: Tensor, truth: Tensor, truth_valid: Tensor) -> Tensor:
    """Mean distance in metres of tracks from the true ones in each frame, over those that last on both sides: [B, T].

    points, truth: [B, T, N, 3], metres.
    valid, truth_valid: bool [B, T, N].

    NaN in frames in which no track lasts on both sides.
    """
    both = valid & truth_valid
    distance = torch.where(both, (points - truth).norm(dim=-1), 0)
    return distance.sum(dim=-1) / both.sum(dim=-1)


def simulated(
    start: Tensor, instance: Tensor, tracks: Mapping[int, Track], still: Collection[int]
) -> tuple[Tensor, Tensor]:
    """Where the simulator moves points of rigid instances, and those of what stands still.

    start: [N, 3], metres, world axes, at frame 0.
    instance: integer [N].
    tracks: instance -> pose over T frames.
    still: instances that do not move.

    Returns points float64 [T, N, 3] and known bool [N]; points of other instances stay where they start.
    """
    frames = max((len(track.position) for track in tracks.values()), default=1)
    points = start.double().expand(frames, *start.shape).clone()
    known = torch.zeros(len(start), dtype=torch.bool)
    for name in still:
        known |= instance == name
    for name, track in tracks.items():
        own = instance == name
        turns, places = torch.from_numpy(track.rotation()), torch.from_numpy(track.position)
        rest = (start[own].double() - places[0]) @ turns[0]
        points[:, own] = rest @ turns.mT + places[:, None]
        known |= own
    return points, known


def seen(points: Tensor, instance: Tensor, intrinsics: Tensor, depth: Tensor, instances: Tensor) -> Tensor:
    """Whether each point is visible: its pixel shows its instance within 5 % of its depth. bool [T, N].

    points: [T, N, 3], metres, in the axes of each frame's camera.
    instance: integer [N].
    intrinsics: [T, 3, 3], pixels.
    depth: [T, H, W], metres, true.
    instances: integer [T, H, W], true.
    """
    height, width = depth.shape[-2:]
    z = points[..., 2]
    ahead = z > 1e-6
    ray = points / torch.where(ahead, z, 1)[..., None]
    pixel = torch.einsum("tij,tnj->tni", intrinsics.to(points.dtype), ray)
    column, row = pixel[..., 0].floor().long(), pixel[..., 1].floor().long()
    inside = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = torch.where(inside, row * width + column, 0)
    there = depth.to(points.dtype).flatten(1).gather(1, at)
    same = instances.flatten(1).gather(1, at) == instance
    return inside & same & ((there - z).abs() <= 0.05 * z)
