"""The loss of metric depth against labels that are disparity up to one positive scale and one shift for each clip.

With p = 1 / depth and d the label, both over the valid pixels of a clip and with the same weights w,

    loss = 1 - r,    r = cov(p, d) / (std(p) std(d))

which is half the mean squared difference of p and d after each is brought to mean 0 and standard deviation 1: the
scale- and shift-invariant loss of MiDaS (Ranftl et al. 2020, eqs. 5-7) and Depth Anything (Yang et al. 2024, eqs. 3-4)
with mean and standard deviation in place of median and mean absolute deviation, so that weights count and the gradient
is smooth. The least squares fit of MiDaS (eqs. 1-4; `depth_loss` of kind "scale_shift") leaves 1 - r^2 of a label of
variance 1: that is 0 for inverted depth, too, which here costs most.

One scale and shift serve a whole clip. With one for each frame, a prediction that breathes from frame to frame would
cost nothing, and neither a warp nor a trajectory could be read off it.
"""

import torch
from torch import Tensor

FLAT = 0.01
"""A predicted disparity with a standard deviation below this share of its mean counts as having that one: an untrained
head is nearly constant, and 1 / std(p) would be its gradient."""
_FLAT_LABEL = 1e-5  # of its mean: 16 bits distinguish no more


def disparity_loss(depth: Tensor, disparity: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """The mean over clips of 1 - r: 0 for the label up to a positive scale and a shift, 1 without relation, 2 inverted.

    Args:
        depth: [B, T, H, W] metres, positive where valid, floating.
        disparity: [B, T, H, W], any unit, not negative; any value where not valid.
        valid: bool [B, T, H, W].
        weight: [B, T, H, W], not negative: of each pixel in means, variances and covariance.

    Returns a scalar; a clip without a valid pixel, or whose label is constant, adds 0 with zero gradient.
    """
    w = torch.where(valid, weight, 0).to(depth.dtype).flatten(1)
    p = (1 / torch.where(valid, depth, 1)).flatten(1)
    d = torch.where(valid, disparity, 0).to(depth.dtype).flatten(1)
    total = w.sum(1, keepdim=True)
    w = w / torch.where(total > 0, total, 1)
    mean_p, mean_d = ((w * x).sum(1, keepdim=True) for x in (p, d))
    off_p, off_d = p - mean_p, d - mean_d
    var_p, var_d, cov = ((w * product).sum(1) for product in (off_p.square(), off_d.square(), off_p * off_d))
    var_p = torch.maximum(var_p, (FLAT * mean_p[:, 0]).square())
    real = (total[:, 0] > 0) & (var_d > (_FLAT_LABEL * mean_d[:, 0]).square())
    r = cov / torch.where(real, var_p * var_d, 1).sqrt()
    return torch.where(real, 1 - r, 0).sum() / max(len(depth), 1)
