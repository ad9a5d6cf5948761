"""Windows of a long clip by hand-made depth: which frames they hold, and that their joints cannot be seen."""

import numpy as np
import pytest

from phys4d.teachers.depth_windows import joined, scale_and_shift, windows


def test_which_frames_a_window_sees() -> None:
    assert windows(1) == [[0] * 32]
    assert windows(22) == [[*range(22), *[21] * 10]]
    first, second, third = windows(49)
    assert first == [*range(32)]
    assert second == [0, 12, *range(24, 32), *range(32, 49), *[48] * 5]
    assert third == [0, 34, *range(46, 49), *[48] * 27]
    assert [len(windows(frames)) for frames in (22, 23, 44, 45, 300)] == [1, 2, 2, 3, 14]


def scene(frames: int) -> np.ndarray:
    t, v, u = np.mgrid[:frames, :6, :8].astype(np.float32)
    return 2 + np.sin(0.2 * t + u) + 0.1 * v


@pytest.mark.parametrize("frames", [5, 22, 32, 33, 49, 100])
def test_a_scene_that_all_windows_see_alike_has_no_joints(frames: int) -> None:
    depth = scene(frames)
    for aligned in (False, True):
        found = joined((depth[numbers] for numbers in windows(frames)), frames, aligned)
        assert found.dtype == np.float32 and found.shape == depth.shape
        np.testing.assert_allclose(found, depth, rtol=1e-5)


def test_windows_of_any_scale_and_shift_are_brought_to_the_first_one() -> None:
    depth, rng = scene(100), np.random.default_rng(0)
    seen = [depth[numbers] * rng.uniform(0.3, 3) + rng.uniform(0, 2) for numbers in windows(100)]
    seen[0] = depth[windows(100)[0]] * np.float32(1.7) + np.float32(0.4)
    np.testing.assert_allclose(joined(seen, 100, aligned=True), 1.7 * depth + 0.4, rtol=1e-4)
    metres = joined(seen, 100, aligned=False)
    assert np.abs(metres[32:] - (1.7 * depth + 0.4)[32:]).max() > 0.3  # metres are not aligned


def test_the_second_window_fades_in_over_eight_frames() -> None:
    found = joined([np.full((32, 1, 1), 1.0, np.float32), np.full((32, 1, 1), 8.0, np.float32)], 40, aligned=False)
    expected = [1.0] * 24 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] + [8.0] * 8
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-6)


def test_disparity_stays_at_least_0() -> None:
    depth = scene(40)
    second = depth[windows(40)[1]].copy()
    second[15] = -50  # of frame 37
    found = joined([depth[:32], second], 40, aligned=True)
    assert found.min() == 0 and not found[37].any() and found[36].all() and found[38].all()


def test_scale_and_shift_by_least_squares() -> None:
    values = np.array([0.0, 1.0, 2.0, 5.0], np.float32)
    assert scale_and_shift(values, 3 * values - 2) == pytest.approx((3, -2))
    assert scale_and_shift(np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.0, 5.0])) == pytest.approx((2, 0))
    assert scale_and_shift(np.full(4, 2.0), values) == (1.0, 0.0)
