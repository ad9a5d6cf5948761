"""Bootstrap intervals over clips."""

import math

import numpy as np
import pytest

from phys4d.evaluate.intervals import bootstrap


def test_what_could_not_be_measured_is_left_out() -> None:
    whole = bootstrap([1.0, 2.0, math.nan, 6.0])
    assert whole == bootstrap([1.0, 2.0, 6.0]) and (whole.mean, whole.clips) == (3.0, 3)
    assert 1 <= whole.low < 3 < whole.high <= 6
    assert bootstrap([4.0])[::3] == (4.0, 1) and math.isnan(bootstrap([4.0]).low)
    assert bootstrap([math.nan]).clips == 0 and math.isnan(bootstrap([]).mean)
    assert bootstrap([2.0] * 5) == (2.0, 2.0, 2.0, 5)


def test_the_interval_of_a_mean_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(values)
    error = values.std() / 20
    assert found.high - found.mean == pytest.approx(1.96 * error, rel=0.1)
    assert found.mean - found.low == pytest.approx(1.96 * error, rel=0.1)
