"""Means over clips with bootstrap intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over clips with its 95 % interval; all NaN without clips, and low and high NaN for one.

    mean: over clips. low, high: of the interval. clips: their number.
    """

    mean: float
    low: float
    high: float
    clips: int


def bootstrap(values: Sequence[float] | np.ndarray, draws: int = 2000) -> Interval:
    """The mean with its 95 % percentile bootstrap interval over clips (Efron 1979), the same in every run.

    values: [N], one of each clip, in an order that does not depend on files; NaN (nothing to measure) is left out.
    draws: times that N clips are drawn with replacement.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    count = len(known)
    if count < 2:
        return Interval(float(known[0]) if count else math.nan, math.nan, math.nan, count)
    chosen = np.random.Generator(np.random.Philox(key=0)).integers(count, size=(draws, count))
    low, high = np.percentile(known[chosen].mean(axis=1), [2.5, 97.5])
    return Interval(float(known.mean()), float(low), float(high), count)
