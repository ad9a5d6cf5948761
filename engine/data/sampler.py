"""The order of samples: a function of (seed, epoch, position), independent of the number of ranks and of resumes."""

from functools import lru_cache

import numpy as np

from phys4d.engine.random import bits


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The permutation of 0..n-1 in which an epoch visits the samples: int64 [n], read-only."""
    permutation = np.argsort(bits(n, "order", seed, epoch, n), kind="stable")
    permutation.setflags(write=False)
    return permutation


def indices(seed: int, step: int, batch: int, n: int) -> list[int]:
    """The sample indices of one global batch, over all ranks together.

    Epochs follow each other without a gap: a batch may contain the end of one epoch and the beginning of the next, so
        that no sample is skipped.

    seed: of the order.
    step: number of the global batch, from 0.
    batch: size of the global batch.
    n: number of samples.

    Raises ValueError if n or batch is below 1 or step is negative.
    """
    if n < 1 or batch < 1 or step < 0:
        raise ValueError(f"expected n >= 1, batch >= 1, step >= 0, got n={n}, batch={batch}, step={step}")
    positions = range(step * batch, (step + 1) * batch)
    return [int(order(seed, position // n, n)[position % n]) for position in positions]
