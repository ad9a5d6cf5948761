"""The order of samples: a function of the seed and of how many were drawn, not of ranks, batch sizes or resumes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from phys4d.engine.random import bits


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, n: int, pool: int = 0) -> np.ndarray:
    """The permutation of 0..n-1 in which an epoch visits the samples: int64 [n], read-only; pools of a seed differ."""
    permutation = np.argsort(bits(n, "order", seed, epoch, n, *([pool] if pool else [])), kind="stable")
    permutation.setflags(write=False)
    return permutation


class _Epoch(NamedTuple):
    """One visit of all samples of a pool.

    samples: in the order of the visit, but grouped by bucket: those of bucket b lie at starts[b]:starts[b + 1].
    ranks: of each of them in the whole visit.
    """

    samples: np.ndarray
    ranks: np.ndarray
    starts: np.ndarray


class Order:
    """The endless order in which samples are drawn, in batches whose samples all lie in one bucket.

    Samples are drawn from pools, which are visited in epochs: every sample of a pool is drawn once in each. The k-th
    sample of a pool is due at time k / rate of the pool. A batch is of the bucket of the sample that is due first of
    all, and takes those of that bucket that are due first. So batches are never short: in each bucket an epoch follows
    the one before without a gap, a batch may hold the end of one and the beginning of the next, and buckets are at most
    one batch ahead of the common order. With one pool and one bucket, samples are drawn in the order of `order`.

    The state is how many samples were drawn from each bucket of each pool, int64 [pools, buckets]; the next batch is a
    function of the seed, the state and the batch's size alone.

    seed: of the permutations.
    buckets: number of the bucket of each sample, from 0: what can share a batch.
    pools: number of the pool of each sample, from 0; None: one pool of all samples.
    rates: of the pools: samples drawn from each for one of another with rate 1, in the long run.
    """

    def __init__(
        self,
        seed: int,
        buckets: Sequence[int] | np.ndarray,
        pools: Sequence[int] | np.ndarray | None = None,
        rates: Sequence[float] = (1.0,),
    ) -> None:
        self.seed, self.rates = seed, tuple(rates)
        self._bucket = np.asarray(buckets, np.int64)
        pool = np.zeros_like(self._bucket) if pools is None else np.asarray(pools, np.int64)
        if not len(self._bucket):
            raise ValueError("no samples to draw from")
        if len(pool) != len(self._bucket) or pool.max() >= len(self.rates) or min(self.rates) <= 0:
            raise ValueError("expected a pool for each sample and a rate above 0 for each pool")
        self._members = [np.flatnonzero(pool == p) for p in range(len(self.rates))]
        shape = len(self.rates), int(self._bucket.max()) + 1
        self.counts = np.zeros(shape, np.int64)  # samples of each bucket of each pool
        np.add.at(self.counts, (pool, self._bucket), 1)
        self.start = np.zeros(shape, np.int64)
        self._places = [(int(p), int(b)) for p, b in np.argwhere(self.counts)]
        self._epoch = lru_cache(maxsize=2 * len(self.rates) + 2)(self._visit)

    def _visit(self, pool: int, epoch: int) -> _Epoch:
        visited = self._members[pool][order(self.seed, epoch, len(self._members[pool]), pool)]
        buckets = self._bucket[visited]
        ranks = np.argsort(buckets, kind="stable")
        starts = np.concatenate(([0], np.cumsum(self.counts[pool])))
        return _Epoch(visited[ranks], ranks, starts)

    def _head(self, pool: int, bucket: int, drawn: int) -> tuple[float, int]:
        """When the next sample of a bucket of a pool is due, and which one it is."""
        epoch, place = divmod(drawn, int(self.counts[pool, bucket]))
        visit = self._epoch(pool, epoch)
        at = visit.starts[bucket] + place
        turn = epoch * len(self._members[pool]) + int(visit.ranks[at])
        return turn / self.rates[pool], int(visit.samples[at])

    def batch(self, state: np.ndarray, size: int) -> tuple[list[int], np.ndarray]:
        """The samples of the next global batch, over all ranks together, and the state behind it.

        state: as `start`, or of the batch before. size: samples of the batch.

        Raises ValueError for a size below 1 or a state that is none of this order.
        """
        if size < 1 or state.shape != self.start.shape or (state < 0).any() or state[self.counts == 0].any():
            raise ValueError(f"expected size >= 1 and a state of {self.start.shape}, got {size} and {state.tolist()}")
        state = state.copy()
        heads = {place: self._head(*place, int(state[place])) for place in self._places}
        _, first = min(((due, place) for place, (due, _) in heads.items()), key=lambda head: (head[0], head[1]))
        own = [place for place in heads if place[1] == first[1]]
        samples = []
        for _ in range(size):
            place = min(own, key=lambda place: (heads[place][0], place))
            samples.append(heads[place][1])
            state[place] += 1
            heads[place] = self._head(*place, int(state[place]))
        return samples, state


class Course:
    """The batches of an order by the number of the step, from a state that a checkpoint holds.

    order: of the samples.
    """

    _KEPT = 64  # steps before the latest one that are remembered

    def __init__(self, order: Order) -> None:
        self.order = order
        self._states = {0: order.start}
        self._batches: dict[int, list[int]] = {}

    def resume(self, step: int, state: np.ndarray) -> None:
        """Goes on from the state before step `step`. Raises ValueError for a state of another order."""
        self.order.batch(state, 1)
        self._states, self._batches = {step: state.astype(np.int64)}, {}

    def batch(self, step: int, size: int) -> list[int]:
        """The samples of the global batch of a step; steps between the latest known one and it have the same size."""
        if (known := self._batches.get(step)) is not None and len(known) == size:
            return known
        self._batches[step], self._states[step + 1] = self.order.batch(self.state(step, size), size)
        for old in [known for known in self._batches if known < step - self._KEPT]:
            del self._batches[old], self._states[old + 1]
        return self._batches[step]

    def state(self, step: int, size: int) -> np.ndarray:
        """The state before a step; size: of the batches between the latest known step and it."""
        known = max((known for known in self._states if known <= step), default=None)
        if known is None:
            raise ValueError(f"step {step} lies before step {min(self._states)}, from which this order goes on")
        state = self._states[known]
        for _ in range(known, step):
            _, state = self.order.batch(state, size)
        return state

