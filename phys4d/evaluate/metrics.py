"""The metrics of an evaluation, for every clip of a batch; those of depth, motion and warps are in `consistency`.

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

from phys4d.evaluate.consistency.averages import masked_mean
from phys4d.evaluate.consistency.depth import absrel, absrel_aligned, delta1
from phys4d.evaluate.consistency.motion import epe
from phys4d.evaluate.consistency.warps import warp_l1

METRICS = (
    "absrel", "absrel_aligned", "absrel_moving", "delta1", "epe", "epe_moving", "epe_zero", "epe_zero_moving",
    "warp_l1", "warp_l1_moving", "chamfer_4d", "reward", "psnr_moving",
)  # fmt: skip
"""Names of all metrics of an evaluation (`geometry_metrics`, `evaluate.run.score`)."""


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
    return 10 * torch.log10(4 / masked_mean(error, region[:, 1:]))


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

