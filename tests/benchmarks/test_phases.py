"""Comparisons over seeds: what is drawn again, what is left out, and what the table says."""

import math

import numpy as np
import pytest

from phys4d.benchmarks.demo import METRICS
from phys4d.benchmarks.phases import COMPARISONS, TABLES, bootstrap, compare, table


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        mean, low, high = bootstrap(random.normal(0.3, 1, (1, 60)), draws=500)
        assert low < mean < high
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_seeds_that_share_scenes_are_no_new_scenes() -> None:
    one = np.random.default_rng(1).normal(size=(1, 50))
    assert bootstrap(np.repeat(one, 3, axis=0)) == pytest.approx(bootstrap(one))


def test_a_scene_that_a_seed_did_not_measure_is_left_out() -> None:
    changes = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 5.0]])
    mean, low, high = bootstrap(changes)
    assert mean == 2.5 and (low, high) == (2.0, 3.0)


def test_comparisons_are_after_minus_before_scene_by_scene() -> None:
    def seed(offset: float) -> dict[str, dict]:
        level = {name: float(i) for i, name in enumerate(TABLES)}
        tables = {}
        for name in TABLES:
            scenes = [0.1 + level[name] * (1 + offset), 0.2 + level[name] * (1 + offset), None]
            tables[name] = {"scenes": dict.fromkeys(METRICS, scenes)}
        return tables

    rows = compare([seed(0.0), seed(0.5)])
    levels = list(TABLES)
    for name, (before, after) in COMPARISONS.items():
        step = levels.index(after) - levels.index(before)
        figure = rows[name]["absrel"]
        assert figure["seeds"] == pytest.approx([step, 1.5 * step])
        assert figure["mean"] == pytest.approx(1.25 * step) and math.isclose(figure["low"], figure["high"])
    assert "reward" not in rows["pretrain to finetune"] and "reward" in rows["finetune to reinforce"]  # other heads
    provenance = {"cores": 2, "cpu": "a machine", "torch": "2", "git_revision": "0" * 40, "date": "2026-01-02T03:04"}
    text = table({"comparisons": rows, "seconds": {"0": {"run": 60}, "1": {"run": 120}}, "provenance": provenance})
    assert "| pretrain to finetune | +1.2500 [+1.2500, +1.2500] |" in text and "Seeds 0, 1: 1, 2 minutes" in text
