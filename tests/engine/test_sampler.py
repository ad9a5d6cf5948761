"""The order of samples: complete epochs, independent of batches and ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phys4d.engine.data.sampler import indices, order


@given(seed=st.integers(0, 5), n=st.integers(1, 40), batch=st.integers(1, 12), epochs=st.integers(1, 3))
def test_each_epoch_visits_every_sample_once(seed: int, n: int, batch: int, epochs: int) -> None:
    steps = -(-n * epochs // batch)
    drawn = [index for step in range(steps) for index in indices(seed, step, batch, n)]
    for epoch in range(epochs):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(
    n=st.integers(1, 60), step=st.integers(0, 50), world=st.sampled_from([1, 2, 3, 4]), each=st.integers(1, 5)
)
def test_the_order_depends_on_the_position_only(n: int, step: int, world: int, each: int) -> None:
    """A step's batch is the same cut into any number of ranks, and equals its single-sample steps."""
    batch = world * each
    together = indices(3, step, batch, n)
    ranks = [together[rank * each : (rank + 1) * each] for rank in range(world)]
    assert [index for rank in ranks for index in rank] == together
    assert together == [indices(3, step * batch + place, 1, n)[0] for place in range(batch)]


def test_epochs_and_seeds_differ_and_are_pinned() -> None:
    orders = [order(seed, epoch, 20) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(each) for each in orders}) == 4
    assert order(0, 0, 10).tolist() == [
        6,
        3,
        5,
        8,
        9,
        1,
        2,
        0,
        7,
        4,
    ]  # another platform or numpy must give the same
    assert order(0, 0, 10).dtype == np.int64


def test_an_order_is_uniform() -> None:
    first = np.bincount([order(seed, 0, 4)[0] for seed in range(4000)], minlength=4)
    assert np.abs(first - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        indices(0, 0, 1, 0)
