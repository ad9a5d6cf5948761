"""The study of rewards: every statistic by hand, correlation within scenes, and the whole on two scenes."""

import math
from pathlib import Path

import pytest
import torch

from phys4d.benchmarks import results
from phys4d.benchmarks.rewards import TITLES, measure, statistics, table, within_groups
from phys4d.demo import load_recipe
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models.config import ModelConfig
from phys4d.models.folder import released
from phys4d.models.placement import place
from phys4d.models.shipped import opened
from phys4d.simulation.generate import simulate


def scored(**changed: list[list[float]]) -> dict[str, torch.Tensor]:
    rows = {
        "probe": [[-0.4, -0.2], [-0.8, -0.6]], "probe again": [[-0.4, -0.2], [-0.8, -0.6]],
        "true": [[-0.2], [-0.3]], "still": [[-2.0], [-1.0]], "flash": [[-0.5], [-0.1]],
    }  # fmt: skip
    return {name: torch.tensor(values) for name, values in (rows | changed).items()}


def test_statistics_by_hand() -> None:
    found = statistics(scored(), torch.tensor([[1.0, 2.0], [7.0, 5.0]]), 0.0)
    assert found["mean"] == pytest.approx(-0.5) and found["ceiling"] == pytest.approx(-0.25)
    assert found["movable"] == pytest.approx(0.5)
    assert found["group_std"] == pytest.approx(0.2 / math.sqrt(2)) and found["reading_std"] == 0
    assert found["still"] == pytest.approx(-1.5) and found["flash"] == pytest.approx(-0.3)
    assert found["correlation"] == pytest.approx((0.5 - 1) * 0.2 / math.sqrt(0.04 * 2.5))
    assert found["scenes"] == 2


def test_a_share_counts_from_its_own_best() -> None:
    assert statistics(scored(true=[[0.5], [0.5]]), torch.rand(2, 2), 1.0)["movable"] == pytest.approx(1 / 1.5)


def test_reading_twice_shows_the_noise_of_reading() -> None:
    again = [[-0.4 + 0.1, -0.2 - 0.1], [-0.8 + 0.1, -0.6 - 0.1]]
    found = statistics(scored(**{"probe again": again}), torch.rand(2, 2), 0.0)
    assert found["reading_std"] == pytest.approx(0.1 * math.sqrt(4 / 3) / math.sqrt(2))


def test_a_scene_with_nothing_to_measure_is_left_out() -> None:
    found = statistics(scored(true=[[-0.2], [math.nan]]), torch.tensor([[1.0, 2.0], [7.0, 5.0]]), 0.0)
    assert found["scenes"] == 1 and found["mean"] == pytest.approx(-0.3) and found["correlation"] == pytest.approx(1)


def test_what_differs_between_scenes_is_no_correlation() -> None:
    scenes = torch.tensor([[0.0], [10.0], [-5.0]])
    a = torch.tensor([[1.0, -1.0, 0.0]] * 3)
    b = torch.tensor([[1.0, 1.0, -2.0]] * 3)
    assert within_groups(a + scenes, b + scenes) == pytest.approx(0.0, abs=1e-6)
    assert within_groups(a + scenes, 3 * a - scenes) == pytest.approx(1.0)


def test_every_form_of_generated_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model with new heads: every form has its figures, a still clip is the worst that "changed" can be."""
    config = load_recipe(None, []).simulate.test
    simulate(config.model_copy(update={"seed": 5, "clips": 2}), tmp_path / "data", workers=1)
    model = released(opened(Path("phys4d:small")), ModelConfig(kind="small", taps=(5,)), (13, 48, 48)).model.eval()
    place(model, Parallel.alone())
    forms = measure(model, tmp_path / "data", scenes=2, group=2)
    assert list(forms) == list(TITLES)
    assert forms["changed"]["still"] == -2.0 and forms["changed"]["scenes"] == 2
    assert forms["changed"]["flash"] > -2.0
    assert forms["changed"]["mean"] != forms["all"]["mean"]
    monkeypatch.setattr(results, "origin", str)
    lines = table({"forms": forms, "provenance": {}}).splitlines()
    assert len(lines) == 2 + len(TITLES) + 2 and "| -2.0000 |" in lines[2]
