"""The loss of the geometry heads against labels, pseudo or true, shared by `pretrain` and `finetune`."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from phys4d.engine.config import Config
from phys4d.kernels.geometry import depth_loss, flow_loss, warp_consistency
from phys4d.stages.disparity_loss import disparity_loss


class GeometryWeights(Config):
    """Weights of the terms of the geometry loss.

    depth: of the mean |log ratio| of depth.
    flow: of the L1 error of the optical flow, per pixel.
    dz: of the L1 error of dz, per metre.
    warp: of the warp consistency, per metre; 0 leaves it out.
    moving_depth, moving_motion: extra weight of a pixel that moves or lies near one that does; most pixels of a clip
        are a still background.
    margin: pixels within which a pixel is near; without it the heads predict moving objects too large.
    """

    depth: float = Field(2.0, ge=0)
    flow: float = Field(0.3, ge=0)
    dz: float = Field(3.0, ge=0)
    warp: float = Field(0.0, ge=0)
    moving_depth: float = Field(8.0, ge=0)
    moving_motion: float = Field(16.0, ge=0)
    margin: int = Field(2, ge=0)


def near_probe(u: Tensor, probe: float) -> Tensor:
    """Uniform u [B] -> sigmas from 0.02 to 0.3 whose median is about the probe's: where the heads are read."""
    return 0.02 + 0.28 * u ** (math.log(max(probe - 0.02, 0.01) / 0.28) / math.log(0.5))


def geometry_loss(
    depth: Tensor, motion: Tensor, labels: dict[str, Tensor], moving: Tensor, weights: GeometryWeights, *,
    affine: Sequence[bool] = (), disparity: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The weighted sum, and its terms for the log.

    depth [B, T, H, W] metres, motion [B, 3, T-1, H, W]; labels as stored (depth, motion, depth_valid, flow_valid,
    dz_valid, and visible where the warp term is on); moving: bool [B, T-1, H, W], pixels to weigh more;
    weights: of the terms. affine: of each clip whether its label is disparity up to scale and shift, which counts by
    `disparity_loss` instead of the metric term, with the weight `disparity`; () for metric labels alone. Each term is
    the mean over all clips, to which those of the other kind of label add 0.
    """
    moving = F.max_pool2d(moving.float(), 2 * weights.margin + 1, 1, weights.margin)
    moving_frames = torch.cat([moving, moving[:, -1:]], 1)
    motion_weight, depth_weight = 1 + weights.moving_motion * moving, 1 + weights.moving_depth * moving_frames
    valid = labels["depth_valid"]
    is_affine = torch.tensor(affine, dtype=torch.bool, device=valid.device).view(-1, 1, 1, 1)
    metric = valid & ~is_affine if affine else valid
    terms = {
        "depth_loss": depth_loss(depth, labels["depth"], metric, weight=depth_weight),
        "flow_loss": flow_loss(motion[:, :2], labels["motion"][:, :2], labels["flow_valid"], weight=motion_weight),
        "dz_loss": flow_loss(motion[:, 2:], labels["motion"][:, 2:], labels["dz_valid"], weight=motion_weight),
    }
    total = weights.depth * terms["depth_loss"] + weights.flow * terms["flow_loss"] + weights.dz * terms["dz_loss"]
    if affine:
        terms["disparity_loss"] = disparity_loss(depth, labels["depth"], valid & is_affine, depth_weight)
        total = total + disparity * terms["disparity_loss"]
    if weights.warp > 0:
        terms["warp_loss"] = warp_consistency(depth, motion, labels["visible"], weight=motion_weight)
        total = total + weights.warp * terms["warp_loss"]
    return total, {name: term.detach() for name, term in terms.items()}
