"""Means over masks, one for each clip."""

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all but the first dimension where the mask is true; NaN where it is true nowhere.

    values: float [B, ...].
    mask: bool, the same shape.

    Returns float [B], summed in float64.
    """
    kept = torch.where(mask, values, 0).flatten(1).double().sum(dim=1)
    return (kept / mask.flatten(1).sum(dim=1)).to(values.dtype)


def mean_where_known(values: Tensor) -> Tensor:
    """Mean over all but the first dimension of the values that are not NaN; NaN where all are. [B, ...] to [B]."""
    return masked_mean(values, ~values.isnan())
