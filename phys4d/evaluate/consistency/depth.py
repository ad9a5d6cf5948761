"""Errors of depth: AbsRel, delta < 1.25 and RMSE, of depth as it is, or brought to the truth's scale (and shift) first.

All functions return one value for each clip, float [B], NaN for a clip without valid pixels. Pixels of all frames of a
clip count alike.
"""

import torch
from torch import Tensor

from phys4d.evaluate.consistency.averages import masked_mean


def absrel(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Absolute relative depth error: mean over valid pixels of |d - d*| / d* (Eigen et al. 2014).

    depth, truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W].
    """
    return masked_mean((depth - truth).abs() / torch.where(valid, truth, 1), valid)


def delta1(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Share of valid pixels with max(d / d*, d* / d) < 1.25 (Eigen et al. 2014).

    depth, truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W].
    """
    ratio = torch.where(valid, depth, 1) / torch.where(valid, truth, 1)
    return masked_mean((torch.maximum(ratio, 1 / ratio) < 1.25).to(depth.dtype), valid)


def rmse(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Root of the mean squared depth error in metres, over the valid pixels of the clip (Eigen et al. 2014).

    depth, truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W].
    """
    return masked_mean((depth - truth).square(), valid).sqrt()


def scaled(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Depth times median(d*) / median(d), both over the valid pixels of the clip (Zhou et al. 2017, one factor a clip).

    depth: [B, T, H, W], positive where valid.
    truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W].

    Returns [B, T, H, W]; a clip without valid pixels as it is.
    """
    factors = torch.ones(len(depth), dtype=depth.dtype, device=depth.device)
    for clip, seen in enumerate(valid):
        if seen.any():
            factors[clip] = truth[clip][seen].median() / depth[clip][seen].median()
    return depth * factors.view(-1, 1, 1, 1)


def scaled_and_shifted(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Depth whose disparity 1 / d is brought to the true one of each clip by the scale and shift of least squares over
    its valid pixels, all frames together (Ranftl et al. 2020, section 6, with one fit per clip).

    Disparity that is then below that of the farthest true pixel counts as that one. Instead of a scale below 0 the
    shift alone is fitted.

    depth: [B, T, H, W], positive where valid.
    truth: [B, T, H, W], metres.
    valid: bool [B, T, H, W].

    Returns [B, T, H, W], 1 where not valid.
    """
    aligned = torch.ones_like(depth)
    for clip, seen in enumerate(valid):  # one after the other: they are in fp64
        if not seen.any():
            continue
        p, d = 1 / depth[clip][seen].double(), 1 / truth[clip][seen].double()
        off = p - p.mean()
        scale = ((off * (d - d.mean())).sum() / off.square().sum().clamp_min(1e-12)).clamp_min(0)
        aligned[clip][seen] = (1 / (scale * off + d.mean()).clamp_min(d.min())).to(depth.dtype)
    return aligned


def absrel_aligned(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """`absrel` of `scaled_and_shifted` depth: what is left for a model that learned from labels up to scale and shift.

    depth, truth: [B, T, H, W], metres, positive where valid.
    valid: bool [B, T, H, W].
    """
    return absrel(scaled_and_shifted(depth, truth, valid), truth, valid)
