"""Comparisons over seeds: what is drawn again, what is left out, and what the table says."""

import math
from pathlib import Path

import numpy as np
import pytest

from phys4d.benchmarks.demo import METRICS
from phys4d.benchmarks.phases import COMPARISONS, RUNS, TABLES, bootstrap, closed, compare, table
from phys4d.engine.training.length import LoopConfig
from phys4d.engine.training.optimizer import OptimizerConfig
from phys4d.stages.finetune import FinetuneConfig


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
    provenance = {"cores": 2, "cpu": "a machine", "torch": "2", "git_revision": "0" * 40, "date": "2026-01-02T03:04"}
    none = dict.fromkeys(("gap", "gap_low", "gap_high", "lower", "lower_low", "lower_high"), 0.25)
    seconds = {"0": {"run": 60}, "1": {"run": 120}}
    text = table({"comparisons": rows, "closed": {"PPO": none}, "seconds": seconds, "provenance": provenance})
    assert "| pretrain to finetune | +1.2500 [+1.2500, +1.2500] |" in text and "Seeds 0, 1: 1, 2 minutes" in text
    assert "| PPO | 25% [25%, 25%] | 25% [25%, 25%] |" in text


def test_what_phase_3_closes_is_a_share_of_means() -> None:
    """Not a mean of shares, which a scene without a gap would make infinite."""

    def rewards(*of_scenes: float) -> dict[str, dict]:
        return {"scenes": {"reward": of_scenes}, "baseline_scenes": {"true_video": {"reward": (-0.1, -0.2)}}}

    seed = dict.fromkeys(TABLES, rewards(-0.5, -0.7))
    seed |= {"finetune": rewards(-0.2, -0.4), "gradient": rewards(-0.1, -0.4)}
    found = closed([seed, seed])
    assert found["reward gradient"]["gap"] == pytest.approx(0.05 / 0.15)
    assert found["reward gradient"]["lower"] == pytest.approx(0.35 / 0.6)
    assert found["PPO"]["gap"] == pytest.approx(-0.3 / 0.15) and found["PPO"]["lower"] == 0


def test_heads_alone_move_at_their_own_rate_and_the_lora_does_not() -> None:
    optimizer = OptimizerConfig(learning_rate=1e-3)
    finetune = FinetuneConfig(data=Path("data"), optimizer=optimizer, loop=LoopConfig(steps=1))
    changed = RUNS["heads-alone"][2](finetune)
    assert changed.optimizer.learning_rate * changed.heads_lr_scale == pytest.approx(2e-3)
    assert changed.optimizer.learning_rate < 1e-10
