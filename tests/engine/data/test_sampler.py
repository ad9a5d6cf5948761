"""The order of samples: complete epochs, in buckets, by rates, whatever batches, ranks and resumes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phys4d.engine.data.sampler import Course, Order, order


@given(seed=st.integers(0, 5), n=st.integers(1, 40), batch=st.integers(1, 12), epochs=st.integers(1, 3))
def test_each_epoch_visits_every_sample_once(seed: int, n: int, batch: int, epochs: int) -> None:
    course, steps = Course(Order(seed, [0] * n)), -(-n * epochs // batch)
    drawn = [index for step in range(steps) for index in course.batch(step, batch)]
    assert drawn[:n] == order(seed, 0, n).tolist()[: len(drawn)]
    for epoch in range(epochs):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == list(range(n))


BUCKETS = st.lists(st.integers(0, 3), min_size=1, max_size=40).map(lambda b: [sorted(set(b)).index(x) for x in b])
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=30)


@given(seed=st.integers(0, 5), buckets=BUCKETS, sizes=SIZES, data=st.data())
def test_batches_of_one_bucket_visit_every_sample_once_an_epoch(
    seed: int, buckets: list[int], sizes: list[int], data: st.DataObject
) -> None:
    """Also with two pools, and batches of any sizes: in its bucket and pool a sample is never drawn twice while another
    waits, and a bucket is never late by more than the batches of the others."""
    pools = data.draw(st.lists(st.integers(0, 1), min_size=len(buckets), max_size=len(buckets)))
    if set(pools) != {0, 1}:
        pools = [0] * len(buckets)
    rates = [1.0, 2.5][: max(pools) + 1]
    whole = Order(seed, buckets, pools, rates)
    state, drawn = whole.start, Counter[int]()
    for size in sizes:
        samples, state = whole.batch(state, size)
        assert len(samples) == size and len({buckets[i] for i in samples}) == 1
        drawn.update(samples)
        for pool in set(pools):
            for bucket in set(buckets):
                visits = [drawn[i] for i in range(len(buckets)) if (pools[i], buckets[i]) == (pool, bucket)]
                assert not visits or max(visits) - min(visits) <= 1
    expected = np.zeros_like(state)
    np.add.at(expected, (np.repeat(pools, [drawn[i] for i in range(len(pools))]),
                         np.repeat(buckets, [drawn[i] for i in range(len(pools))])), 1)  # fmt: skip
    assert np.array_equal(state, expected)


@given(
    seed=st.integers(0, 3), buckets=BUCKETS, worlds=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4),
    each=st.integers(1, 3), kill=st.integers(0, 4),
)  # fmt: skip
def test_sessions_on_other_ranks_with_other_batches_go_on_from_the_state(
    seed: int, buckets: list[int], worlds: list[int], each: int, kill: int
) -> None:
    """What sessions draw, each resumed from the state of the one before it, is what one would have drawn: a function of
    the sizes alone. Steps behind the last checkpoint are lost with the process, and drawn again."""
    whole, sizes, together, step = Order(seed, buckets), [], [], 0
    state = whole.start
    for world in worlds:
        course = Course(Order(seed, buckets))
        course.resume(step, state)
        for ahead in range(step + 3 + kill):  # read ahead, and lost
            if ahead >= step:
                course.batch(ahead, world * each)
        course = Course(Order(seed, buckets))
        course.resume(step, state)
        for _ in range(3):
            drawn = course.batch(step, world * each)
            ranks = [drawn[rank * each : (rank + 1) * each] for rank in range(world)]
            assert [index for rank in ranks for index in rank] == drawn
            together.append(drawn)
            sizes.append(world * each)
            step += 1
        state = course.state(step, world * each)
    at = whole.start
    for size, drawn in zip(sizes, together, strict=True):
        expected, at = whole.batch(at, size)
        assert drawn == expected
    assert np.array_equal(at, state)


def test_pools_are_drawn_at_their_rates() -> None:
    """Three samples of the second pool for each of the first, however many there are of each."""
    whole = Order(0, [0] * 110, [0] * 100 + [1] * 10, [1.0, 3.0])
    samples, state = whole.batch(whole.start, 400)
    assert state.tolist() == [[100], [300]]
    assert Counter(samples) == Counter(range(100)) + Counter(dict.fromkeys(range(100, 110), 30))
    halves = [sum(i >= 100 for i in samples[k : k + 40]) for k in range(0, 400, 40)]
    assert max(halves) - min(halves) <= 2


def test_a_bucket_smaller_than_a_batch_repeats_and_then_waits() -> None:
    whole = Order(1, [0] * 30 + [1] * 2)
    state, drawn = whole.start, Counter[int]()
    for _ in range(64):
        samples, state = whole.batch(state, 4)
        drawn.update(samples)
    assert state.sum() == 256 and drawn[30] == drawn[31] and abs(drawn[30] - 8) <= 2


def test_a_course_remembers_the_latest_steps_and_refuses_earlier_ones() -> None:
    course = Course(Order(0, [0, 1] * 10))
    batches = [course.batch(step, 3) for step in range(100)]
    assert [course.batch(step, 3) for step in (99, 50, 3)] == [batches[99], batches[50], batches[3]]
    later = Course(Order(0, [0, 1] * 10))
    later.resume(60, course.state(60, 3))
    assert later.batch(64, 3) == batches[64] and later.batch(61, 3) == batches[61]
    with pytest.raises(ValueError, match="step 59 lies before step 60"):
        later.batch(59, 3)
    for bad in (np.zeros((1, 3), np.int64), np.array([[2, -1]])):
        with pytest.raises(ValueError, match="a state of"):
            later.resume(3, bad)


def test_a_course_whose_batches_change_their_size() -> None:
    course = Course(Order(0, [0] * 10))
    two, three = course.batch(0, 2), course.batch(1, 3)
    assert course.state(2, 3).sum() == 5  # from the latest step that is known
    four = course.batch(1, 4)
    assert four[:3] == three and len({*two, *four}) == 6 and course.batch(2, 4)[:1] == order(0, 0, 10)[6:7].tolist()


def test_epochs_seeds_and_pools_differ_and_are_pinned() -> None:
    orders = [order(seed, epoch, 20, pool) for seed in (0, 1) for epoch in (0, 1) for pool in (0, 1)]
    assert len({tuple(each) for each in orders}) == 8
    assert order(0, 0, 10).tolist() == [6, 3, 5, 8, 9, 1, 2, 0, 7, 4]  # another platform or numpy must give the same
    assert order(0, 0, 10).dtype == np.int64 and not order(0, 0, 10).flags.writeable


def test_an_order_is_uniform() -> None:
    first = np.bincount([order(seed, 0, 4)[0] for seed in range(4000)], minlength=4)
    assert np.abs(first - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("buckets", "pools", "rates"),
    [([], None, [1.0]), ([0, 0], [0, 1], [1.0]), ([0], None, [0.0]), ([0, 0], [0, 1], [1.0, 0.0]), ([0, 1], [0], [1])],
)
def test_nothing_to_draw_from_is_refused(buckets: list[int], pools: list[int] | None, rates: list[float]) -> None:
    with pytest.raises(ValueError, match="no samples|expected a pool for each sample and a rate above 0"):
        Order(0, buckets, pools, rates)
