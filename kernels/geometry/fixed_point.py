"""Sums of floating-point numbers that are the same in any order: as integers, multiples of a power of two."""

import math

import torch
from torch import Tensor

CACHED = 32 << 20  # bytes of integers that backward works on at a time, of 40 to 126 MB of cache; not yet tuned
_BITS = 62  # of an int64 sum; one is left for rounding


def fixed_point(peak: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Powers of two by which `count` numbers of size at most `peak` are multiplied so that their int64 sum fits.

    peak: float64 [B]. Returns step and 1 / step, float64 [B], the second NaN where peak is not finite. One unit is at
    most peak * count / 2^61: 2^-40 of the peak for the 1.4 million contributions of a 480 x 720 frame.
    """
    finite = peak.isfinite()
    exponent = torch.frexp(torch.where(finite, peak, 0)).exponent
    power = (_BITS - math.ceil(math.log2(max(count, 1))) - exponent).clamp(-1000, 1000).to(torch.float64)
    return torch.exp2(power), torch.where(finite, torch.exp2(-power), math.nan)
