"""Definitions of the metrics: each is a function of prediction and truth, for every clip of a batch.

All functions return one value for each clip, float [B], NaN for a clip without valid pixels; `ClipMean` ignores those.
Depth is metric, and nothing is aligned: no scale, shift or rigid motion is fitted before comparing, but in
`absrel_aligned`, which is the figure of depth for a model that learned from labels up to scale and shift.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from phys4d.kernels.geometry import chamfer, pack, unproject, warp_residual

METRICS = (
    "absrel", "absrel_aligned", "absrel_moving", "delta1", "epe", "epe_moving", "epe_zero", "epe_zero_moving",
    "warp_l1", "warp_l1_moving", "chamfer_4d", "reward", "psnr_moving",
)  # fmt: skip
"""Names of all metrics of an evaluation (`geometry_metrics`, `evaluate.run.score`)."""


def absrel(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Absolute relative depth error: mean over valid pixels of |d - d*| / d* (Eigen et al. 2014).

    depth, truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W].
    """
    return _mean((depth - truth).abs() / torch.where(valid, truth, 1), valid)


def absrel_aligned(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """`absrel` after the disparity 1 / d of each clip is brought to the true one by the scale and shift of least
    squares over its valid pixels, all frames together (Ranftl et al. 2020, section 6, with one fit per clip). Disparity
    that is then below that of the farthest true pixel counts as that one. Instead of a scale below 0 the shift alone is
    fitted.

    depth, truth: [B, T, H, W], metres, positive where valid.
    valid: bool [B, T, H, W].
    """
    aligned = torch.ones_like(depth)
    for clip, seen in enumerate(valid):  # one after the other: they are in fp64
        if not seen.any():
            continue
        p, d = 1 / depth[clip][seen].double(), 1 / truth[clip][seen].double()
        off = p - p.mean()
        scale = ((off * (d - d.mean())).sum() / off.square().sum().clamp_min(1e-12)).clamp_min(0)
        aligned[clip][seen] = (1 / (scale * off + d.mean()).clamp_min(d.min())).to(depth.dtype)
    return absrel(aligned, truth, valid)


def delta1(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Share of valid pixels with max(d / d*, d* / d) < 1.25 (Eigen et al. 2014).

    depth, truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W].
    """
    ratio = torch.where(valid, depth, 1) / torch.where(valid, truth, 1)
    return _mean((torch.maximum(ratio, 1 / ratio) < 1.25).to(depth.dtype), valid)


def epe(motion: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """End-point error of optical flow in pixels: mean over the mask of the Euclidean length of (du, dv) - (du*, dv*).

    motion, truth: [B, 2 or 3, T-1, H, W]; a dz channel is ignored.
    mask: bool [B, T-1, H, W].
    """
    return _mean((motion[:, :2] - truth[:, :2]).norm(dim=1), mask)


def warp_l1(depth: Tensor, motion: Tensor, visible: Tensor) -> Tensor:
    """Consistency of predicted depth and motion, in metres: mean of |D_{t+1}(u + du, v + dv) - (D_t + dz)|.

    Forward form with both sides predicted (`kernels.geometry.warp_residual`), over pixels that are visible at t + 1 in
    the truth and land inside the image. The truth itself does not score 0: next to a silhouette, interpolation mixes
    two surfaces.

    depth: [B, T, H, W], metres.
    motion: [B, 3, T-1, H, W].
    visible: bool [B, T-1, H, W].
    """
    residual, used = warp_residual(depth, motion, visible)
    return _mean(residual.abs(), used)


def geometry_metrics(depth: Tensor, motion: Tensor, truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All depth and motion metrics of predictions on true clips, each [B].

    depth: [B, T, H, W], metres, predicted.
    motion: [B, 3, T-1, H, W], predicted.
    truth: stored arrays with a batch dimension: depth, motion, depth_valid, flow_valid, visible, moving.

    Returns absrel, absrel_aligned, delta1 (valid pixels); epe (visible pixels with valid flow); warp_l1 (visible
    pixels); absrel_moving, epe_moving, warp_l1_moving over surface points that move in the world; and the baselines
    epe_zero, epe_zero_moving of zero flow.
    """
    moving, flow_mask = truth["moving"], truth["visible"] & truth["flow_valid"]
    still = torch.zeros_like(truth["motion"])
    depth_moving = truth["depth_valid"][:, :-1] & moving
    return {
        "absrel": absrel(depth, truth["depth"], truth["depth_valid"]),
        "absrel_aligned": absrel_aligned(depth, truth["depth"], truth["depth_valid"]),
        "absrel_moving": absrel(depth[:, :-1], truth["depth"][:, :-1], depth_moving),
        "delta1": delta1(depth, truth["depth"], truth["depth_valid"]),
        "epe": epe(motion, truth["motion"], flow_mask),
        "epe_moving": epe(motion, truth["motion"], flow_mask & moving),
        "epe_zero": epe(still, truth["motion"], flow_mask),
        "epe_zero_moving": epe(still, truth["motion"], flow_mask & moving),
        "warp_l1": warp_l1(depth, motion, truth["visible"]),
        "warp_l1_moving": warp_l1(depth, motion, truth["visible"] & moving),
    }


def moving_region(instance: Tensor, moving: Tensor) -> Tensor:
    """Pixels of the objects that move at any time in their clip, and the pixels of these objects in frame 0, in every
    frame.

    instance: uint8 [B, T, H, W], 0 = none.
    moving: bool [B, T-1, H, W].

    Returns bool [B, T, H, W].
    """
    region = torch.zeros_like(instance, dtype=torch.bool)
    for clip in range(len(instance)):
        movers = instance[clip, :-1][moving[clip]].unique()
        region[clip] = torch.isin(instance[clip], movers[movers > 0])
    return region | region[:, :1]


def psnr_moving(video: Tensor, truth: Tensor, region: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a generated video over a region, in the frames after the first.

    10 log10(4 / MSE) for values in [-1, 1]; one MSE over all pixels of the clip. Infinite for equal videos.

    video, truth: [B, 3, T, H, W].
    region: bool [B, T, H, W], from `moving_region`.
    """
    error = (video - truth).square().mean(dim=1)[:, 1:]
    return 10 * torch.log10(4 / _mean(error, region[:, 1:]))


def cloud_chamfer_4d(
    depth: Tensor,
    truth: Tensor,
    truth_valid: Tensor,
    intrinsics: Tensor,
    *,
    pixel_stride: int = 2,
    frame_stride: int = 2,
) -> Tensor:
    """4D Chamfer distance in metres of whole lifted point clouds, without alignment.

    For each frame the symmetric sum of mean nearest distances (CD-4D of facebookresearch/actionmesh, `actionbench/`,
    without its frame-0 ICP), averaged over the frames after the first. It is almost insensitive to motion; use it
    together with the reward.

    depth, truth: [B, T, H, W], metres.
    truth_valid: bool [B, T, H, W].
    intrinsics: [B, T, 3, 3], pixels.
    pixel_stride: step between used pixels, along both axes.
    frame_stride: step between used frames.
    """
    take = (slice(None), slice(frame_stride, None, frame_stride))
    pixels = (slice(None), slice(None), slice(None, None, pixel_stride), slice(None, None, pixel_stride))
    clouds = []
    for values, mask in ((depth, depth > 0), (truth.to(depth.dtype), truth_valid)):
        points = unproject(values[take], intrinsics[take])[pixels]
        clouds.append(pack(points.flatten(0, 1).flatten(1, 2), mask[take][pixels].flatten(0, 1).flatten(1)))
    (x, x_lengths), (y, y_lengths) = clouds
    per_frame = chamfer(x, y, x_lengths=x_lengths, y_lengths=y_lengths).view(len(depth), -1)
    both = ((x_lengths > 0) & (y_lengths > 0)).view_as(per_frame)
    return _mean(per_frame[..., None, None], both[..., None, None])


class Estimate(NamedTuple):
    """A mean over clips.

    mean: over clips.
    standard_error: of the mean, NaN for one clip.
    clips: number of clips.
    """

    mean: float
    standard_error: float
    clips: int


class ClipMean:
    """Averages values of clips with equal weight for every clip, independent of the division into batches.

    The standard error treats each value as one independent scene: average repeated samples of a scene first.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds values: name -> float [B]; NaN (nothing to measure in that clip) is ignored."""
        for name, per_clip in values.items():
            self._values[name] += [value for value in per_clip.double().tolist() if not math.isnan(value)]

    def summary(self) -> dict[str, Estimate]:
        """Name -> estimate; the mean is NaN if no clip had a value."""
        return {name: _estimate(values) for name, values in self._values.items()}


def _estimate(values: list[float]) -> Estimate:
    count = len(values)
    mean = math.fsum(values) / count if count else math.nan
    if count < 2:
        return Estimate(mean, math.nan, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count), count)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all but the first dimension where the mask is true; NaN where it is true nowhere."""
    kept = torch.where(mask, values, 0).flatten(1).double().sum(dim=1)
    return (kept / mask.flatten(1).sum(dim=1)).to(values.dtype)
