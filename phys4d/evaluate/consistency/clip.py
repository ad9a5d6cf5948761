"""All figures of one clip: a prediction of its depth and motion against the simulator's truth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phys4d.evaluate.consistency.averages import masked_mean
from phys4d.evaluate.consistency.clouds import Align, cloud_chamfer_4d, track_chamfer
from phys4d.evaluate.consistency.depth import absrel, delta1, rmse, scaled, scaled_and_shifted
from phys4d.evaluate.consistency.lifted import Lifted, lifted, movers, true_tracks
from phys4d.evaluate.consistency.masks import area_error, mask_chamfer, mask_iou, trajectory_error
from phys4d.evaluate.consistency.motion import epe, motion_error, motion_outliers, scene_flow, scene_flow_error
from phys4d.evaluate.consistency.rigid import body_figures
from phys4d.evaluate.consistency.tracks import agreement, track_error
from phys4d.evaluate.consistency.warps import temporal_alignment_error, warp_l1_backward
from phys4d.kernels.geometry import warp_residual

LEAST_DEPTH = 1e-3  # metres: depth below it counts as it, as in Video-Depth-Anything's benchmark
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ClipFigures:
    """Figures of a clip: name -> value (`figures.FIGURES`), and curve -> values by frame; NaN where there is none."""

    values: dict[str, float]
    curves: dict[str, list[float]]


@torch.no_grad()
def clip_figures(prediction: Arrays, truth: Arrays, meta: Mapping[str, Any]) -> ClipFigures:
    """All figures of a clip.

    prediction: depth float32 [T, H, W] metres, motion float32 [3, T-1, H, W], as in a dataset; and if they are known
        `instance` uint8 [T, H, W] with the truth's numbers, and the masks `depth_valid` and `visible`. Without
        `instance` the objects are those of the true first frame, followed by each side's own motion.
    truth: depth, motion, depth_valid, flow_valid, dz_valid, visible, moving, instance.
    meta: the json of the true clip.
    """
    true, read = lifted(truth, meta), lifted(prediction, meta)
    masks, depth = _tensors(truth), read.depth.clamp_min(LEAST_DEPTH)
    pair = _Pair(read, true, masks, depth, scaled_and_shifted(depth, true.depth, masks["depth_valid"]))
    values = {**_depth(pair), **_motion(pair), **_warps(pair), **_clouds(pair)}
    tracks, drift = _tracks(pair, meta)
    overlaps, overlap = _masks(pair)
    bodies, centres = body_figures(read, pair.start, meta)
    curves = {
        "absrel": _depth_by_frame(pair),
        "epe": [math.nan, *_motion_by_frame(pair)],
        "track_error": drift,
        "mask_iou": overlap,
        "centre_error": centres,
    }
    return ClipFigures(values | tracks | overlaps | bodies, curves)


@dataclass(frozen=True)
class _Pair:
    """A prediction and its truth, with a batch dimension of 1. depth: of the prediction, positive; aligned: the same
    behind scale and shift."""

    read: Lifted
    true: Lifted
    masks: dict[str, Tensor]
    depth: Tensor
    aligned: Tensor

    @property
    def seen(self) -> Tensor:
        return self.masks["visible"] & self.masks["flow_valid"]

    @property
    def start(self) -> Tensor:
        """The true instance of each pixel of frame 0, [N]."""
        assert self.true.instance is not None
        return self.true.instance[0].flatten()

    @property
    def movers(self) -> Tensor:
        """Instances that move in the truth and are seen in frame 0, [K]."""
        assert self.true.instance is not None
        return movers(self.true.instance, self.masks["moving"][0])

    @property
    def surfaces(self) -> dict[str, Tensor]:
        """Suffix of a name -> where the figure of that name is taken."""
        every = torch.ones_like(self.masks["moving"])
        return {"": every, "_moving": self.masks["moving"], "_static": ~self.masks["moving"]}


def _tensors(truth: Arrays) -> dict[str, Tensor]:
    names = ("depth_valid", "flow_valid", "dz_valid", "visible", "moving")
    return {name: torch.from_numpy(truth[name])[None] for name in names}


def _depth(pair: _Pair) -> dict[str, float]:
    true, valid = pair.true.depth, pair.masks["depth_valid"]
    forms = {
        "": pair.depth,
        "_scaled": scaled(pair.depth, true, valid),
        "_aligned": pair.aligned,
    }
    metrics = {"absrel": absrel, "delta1": delta1, "rmse": rmse}
    return {
        name + form: metric(depth, true, valid).item()
        for form, depth in forms.items()
        for name, metric in metrics.items()
    }


def _motion(pair: _Pair) -> dict[str, float]:
    flow, true_flow = (
        scene_flow(side.depth, side.motion, side.intrinsics, side.poses) for side in (pair.read, pair.true)
    )
    off, far = motion_error(pair.read.motion, pair.true.motion), motion_outliers(pair.read.motion, pair.true.motion)
    scene = scene_flow_error(flow, true_flow)
    values = {}
    for name, where in pair.surfaces.items():
        mask = pair.seen & where
        values["epe" + name] = masked_mean(off, mask).item()
        values["outliers" + name] = masked_mean(far, mask).item()
        values["scene_flow" + name] = masked_mean(scene, mask & pair.masks["dz_valid"]).item()
    return values


def _warps(pair: _Pair) -> dict[str, float]:
    visible, valid = pair.masks["visible"], pair.masks["depth_valid"]
    residual, used = warp_residual(pair.read.depth, pair.read.motion, visible)  # of which `warp_l1` is the mean
    return {
        "warp_l1": masked_mean(residual.abs(), used).item(),
        "warp_l1_moving": masked_mean(residual.abs(), used & pair.masks["moving"]).item(),
        "warp_l1_backward": warp_l1_backward(pair.read.depth, pair.read.motion, pair.true.depth, valid).item(),
        "tae": temporal_alignment_error(pair.aligned, pair.true.motion, visible, valid).item(),
    }


def _clouds(pair: _Pair) -> dict[str, float]:
    read, true = pair.read, pair.true
    stride = max(2, math.ceil(max(read.depth.shape[-2:]) / 64))
    forms: dict[str, Align] = {"chamfer_4d": "none", "chamfer_4d_aligned": "first", "chamfer_3d_aligned": "each"}
    return {
        name: cloud_chamfer_4d(
            read.depth, true.depth, pair.masks["depth_valid"], true.intrinsics, camera_to_world=true.poses,
            align=align, pixel_stride=stride,
        ).item()
        for name, align in forms.items()
    }  # fmt: skip


def _tracks(pair: _Pair, meta: Mapping[str, Any]) -> tuple[dict[str, float], list[float]]:
    read, true = pair.read, pair.true
    chosen = read.grid()
    moving = torch.isin(pair.start[chosen], pair.movers)
    points, valid = read.world[None, :, chosen], read.valid[None, :, chosen]
    chained, lasting = true.world[None, :, chosen], true.valid[None, :, chosen]
    values = {
        "chamfer_motion": track_chamfer(points, valid, chained, lasting).item(),
        "chamfer_motion_aligned": track_chamfer(points, valid, chained, lasting, aligned=True).item(),
        "chamfer_motion_moving": track_chamfer(points, valid & moving, chained, lasting & moving).item(),
    }
    exact, visible = (side[None] for side in true_tracks(true, meta, chosen))
    camera = read.points[None, :, chosen].double()
    every = agreement(camera, valid, exact, visible, true.focal)
    values |= {name: value.item() for name, value in every._asdict().items()}
    values["average_jaccard_moving"] = agreement(
        camera, valid, exact, visible, true.focal, moving[None]
    ).average_jaccard.item()
    return values, track_error(camera, valid, exact, visible)[0].tolist()


def _masks(pair: _Pair) -> tuple[dict[str, float], list[float]]:
    names, frames = pair.movers, pair.depth.shape[1]
    if not len(names):
        nothing = ("trajectory_error", "mask_chamfer", "mask_iou", "area_error")
        return dict.fromkeys(nothing, math.nan), [math.nan] * frames
    segmented = pair.read.instance is not None
    own, true = (side.objects(names, pair.start, segmented=segmented) for side in (pair.read, pair.true))
    values = {
        "trajectory_error": trajectory_error(own, true).item(),
        "mask_chamfer": mask_chamfer(own, true).item(),
        "mask_iou": mask_iou(own, true).item(),
        "area_error": area_error(own, pair.read.depth, true, pair.true.depth, pair.true.intrinsics).item(),
    }
    return values, [mask_iou(own[:, :, t : t + 1], true[:, :, t : t + 1]).item() for t in range(frames)]


def _depth_by_frame(pair: _Pair) -> list[float]:
    frames = (pair.depth, pair.true.depth, pair.masks["depth_valid"])
    return absrel(*(frame.transpose(0, 1) for frame in frames)).tolist()


def _motion_by_frame(pair: _Pair) -> list[float]:
    flow, true_flow = (side.motion.permute(2, 1, 0, 3, 4) for side in (pair.read, pair.true))
    return epe(flow, true_flow, pair.seen.transpose(0, 1)).tolist()
