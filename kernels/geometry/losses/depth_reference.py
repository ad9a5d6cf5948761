"""The definitions of the depth losses in plain torch, against which the kernels are tested.

With g = log predicted - log target, over the valid pixels of a group (a frame, or a clip):

    log_l1       mean |g|, over the clip
    silog        mean g^2 - invariance (mean g)^2                       Eigen et al. 2014, eq. 3
    scale_shift  min over s, t of mean (s predicted + t - target)^2     MiDaS (Ranftl et al. 2020), eqs. 1-4
    gradient     sum over scales of mean |g - g of a neighbour|         MegaDepth (Li and Snavely 2018), eq. 3

All but `gradient` are weighted means. Scale k of `gradient` uses every 2^k-th row and column, and averages over the
pairs of neighbours that are both valid.
"""

import torch
from torch import Tensor

KINDS = ("log_l1", "silog", "scale_shift", "gradient")  # bits 1, 2, 4, 8 of `wanted`
FLAT = 1e-20  # a prediction with a variance of at most this times its squared mean counts as constant


def depth_reference(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None,
    per_clip: bool, invariance: float, scales: int, wanted: int,
) -> Tensor:  # fmt: skip
    """[4, B]: each loss of each clip, 0 for losses not in `wanted`; arguments as of the operator."""
    clips = len(predicted)
    factor = valid.to(predicted.dtype) if weight is None else torch.where(valid, weight, 0)
    # Ones outside the mask: the derivative of log at 0 is infinite and would make gradients NaN.
    p, d = torch.where(valid, predicted, 1), torch.where(valid, target, 1)
    ratio = p.log() - d.log()
    none = predicted.new_zeros(clips)
    found = [none, none, none, none]
    if wanted & 1:
        found[0] = _mean(ratio.abs().flatten(1), factor.flatten(1))
    if wanted & 2:
        groups = [_grouped(t, per_clip) for t in (ratio, factor)]
        mean = _mean(*groups)
        spread = _mean((groups[0] - mean[..., None]).square(), groups[1])
        found[1] = _over_groups(spread + (1 - invariance) * mean.square(), groups[1])
    if wanted & 4:
        p, d, w = (_grouped(t, per_clip) for t in (p, d, factor))
        scale, shift = fit(p, d, w)
        found[2] = _over_groups(_mean((scale[..., None] * p + shift[..., None] - d).square(), w), w)
    if wanted & 8:
        found[3] = _differences(ratio, valid, scales)
    return torch.stack(found)


def fit(p: Tensor, d: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift [...] of the weighted least squares s p + t = d over the last dimension; scale 0 if p is flat."""
    mean_p, mean_d = _mean(p, w), _mean(d, w)
    off_p, off_d = p - mean_p[..., None], d - mean_d[..., None]
    pp, pd = _mean(off_p.square(), w), _mean(off_p * off_d, w)
    flat = pp <= FLAT * mean_p.square()
    scale = torch.where(flat, 0, pd / torch.where(flat, 1, pp))
    return scale, mean_d - scale * mean_p


def trimmed(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, per_clip: bool, trim: float
) -> Tensor:
    """`valid` without the share `trim` of each group with the largest residuals of a first fit; without gradient."""
    with torch.no_grad():
        factor = valid.to(predicted.dtype) if weight is None else torch.where(valid, weight, 0)
        p, d = torch.where(valid, predicted, 1), torch.where(valid, target, 1)
        p, d, w, real = (_grouped(t, per_clip) for t in (p, d, factor, valid))
        scale, shift = fit(p, d, w)
        residual = torch.where(real, (scale[..., None] * p + shift[..., None] - d).abs(), torch.inf)
        count = real.sum(-1, keepdim=True)
        last = (((1 - trim) * count).ceil().long() - 1).clamp_min(0)
        limit = residual.sort(-1).values.gather(-1, last) if residual.shape[-1] else residual
        return (real & (residual <= limit)).view_as(valid)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(-1)
    return (values * weight).sum(-1) / torch.where(total > 0, total, 1)


def _grouped(t: Tensor, per_clip: bool) -> Tensor:
    """[B, groups, pixels of a group]."""
    return t.flatten(1).unsqueeze(1) if per_clip else t.flatten(2)


def _over_groups(values: Tensor, weight: Tensor) -> Tensor:
    """Mean over the groups of a clip with weight above 0."""
    real = weight.sum(-1) > 0
    return torch.where(real, values, 0).sum(-1) / real.sum(-1).clamp_min(1)


def _differences(ratio: Tensor, valid: Tensor, scales: int) -> Tensor:
    total = ratio.new_zeros(len(ratio))
    for k in range(scales):
        g, real = (t[..., :: 1 << k, :: 1 << k] for t in (ratio, valid))
        gaps, pairs = total.new_zeros(len(total)), torch.zeros(len(total), dtype=torch.int64, device=ratio.device)
        for axis in (-2, -1):
            both = real.narrow(axis, 1, g.shape[axis] - 1) & real.narrow(axis, 0, g.shape[axis] - 1)
            gap = torch.where(both, g.diff(dim=axis), 0).abs()
            gaps, pairs = gaps + gap.flatten(1).sum(1), pairs + both.flatten(1).sum(1)
        total = total + gaps / pairs.clamp_min(1)
    return total
