"""Losses that leap far above their recent course, by median and median absolute deviation (MAD)."""

import math
from collections import deque
from statistics import median
from typing import NamedTuple

COURSE = 64  # the latest losses, of single steps, with which one is compared
FEWEST = 20  # losses without which none is judged
LEAST = 1.5  # a spike is at least so many times the usual loss, however even the course is
_DEVIATION = 1.4826  # standard deviation over MAD of a normal distribution


class Spike(NamedTuple):
    """A step whose loss leaps: number of finished steps, loss, median of the losses before it, samples by rank (on
    rank 0; elsewhere none)."""

    step: int
    loss: float
    usual: float
    samples: list[list[str]] = []

    def __str__(self) -> str:
        return f"the loss of step {self.step} is {self.loss:.4g}, usually {self.usual:.4g}"

    @property
    def by_rank(self) -> str:
        """The samples in words."""
        return "; ".join(f"rank {rank}: {' '.join(names)}" for rank, names in enumerate(self.samples))


class Course:
    """The latest losses of one session; logarithms are compared, since the noise of a loss is relative to it.

    threshold: standard deviations of the logarithm, estimated as 1.4826 MAD, above the median at which a loss is a
        spike; 0: none is.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._logs: deque[float] = deque(maxlen=COURSE)

    def judge(self, step: int, loss: float) -> Spike | None:
        """Takes the loss of the next step, and returns it if it is a spike; a loss that is not positive is no part of
        the course.
        """
        if not (self._threshold > 0 and math.isfinite(loss) and loss > 0):
            return None
        known, log = list(self._logs), math.log(loss)
        self._logs.append(log)
        if len(known) < FEWEST:
            return None
        usual = median(known)
        spread = _DEVIATION * median(abs(each - usual) for each in known)
        leaps = log - usual > max(self._threshold * spread, math.log(LEAST))
        return Spike(step, loss, math.exp(usual)) if leaps else None
