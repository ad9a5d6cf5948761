"""Agreement of depth with depth of the next frame, along predicted motion (warp L1) and along the true one (TAE).

All functions return one value for each clip, float [B], NaN for a clip without pixels to compare.
"""

import torch
from torch import Tensor

from phys4d.evaluate.consistency.averages import masked_mean
from phys4d.kernels.geometry import flow_warp, warp_residual


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
    return masked_mean(residual.abs(), used)


def warp_l1_backward(depth: Tensor, motion: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """The form of the Phys4D authors' Sim4VideoGen, in metres: mean of |D_t(u - du, v - dv) - D*_{t+1}|.

    (du, dv) is the flow of pixel (u, v) of frame t, depth is interpolated bilinearly, what lies outside the image is
    its border, there is no mask of occlusion, and dz is left out. The truth scores above 0 wherever anything moves.

    depth: [B, T, H, W], metres.
    motion: [B, 3, T-1, H, W].
    truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W], of the truth.
    """
    warped, _ = flow_warp(depth[:, None, :-1], -motion[:, :2].to(depth.dtype), border="clamp")
    return masked_mean((warped[:, 0] - truth[:, 1:].to(depth.dtype)).abs(), valid[:, 1:])


def temporal_alignment_error(depth: Tensor, motion: Tensor, visible: Tensor, valid: Tensor) -> Tensor:
    """Temporal alignment error in per cent, along the true motion of every surface point:

        50 mean_t (mean |D_{t+1}(x') - (D_t(x) + dz*)| / D_{t+1}(x') + mean |D_{t+1}(x') - (D_t(x) + dz*)| / D_t(x))

    with x' = x + flow*. Base: TAE of Video-Depth-Anything (`benchmark/eval/eval_tae.py`), which moves points by the
    camera alone, so that what moves counts as error; has no test of occlusion; and takes the nearest pixel, where this
    takes the bilinear 1 / z. On still scenes they agree but for that. Align depth first (`depth.scaled_and_shifted`),
    as there. Pairs of frames without pixels to compare are left out; there they count as 0.

    depth: [B, T, H, W], metres, aligned to the truth.
    motion: [B, 3, T-1, H, W], true.
    visible: bool [B, T-1, H, W], of the truth.
    valid: bool [B, T, H, W], of the truth.
    """
    seen = torch.where(valid, depth, 0)  # 0 is no surface
    residual, used = warp_residual(seen, motion.to(depth.dtype), visible & valid[:, :-1])
    before = torch.where(used, depth[:, :-1], 1)
    after = torch.where(used, depth[:, :-1] + motion[:, 2] + residual, 1)
    error = residual.abs() / after + residual.abs() / before
    clips, pairs = used.shape[:2]
    each = masked_mean(error.flatten(0, 1), used.flatten(0, 1)).view(clips, pairs)
    return 50 * masked_mean(each.nan_to_num(), ~each.isnan())
