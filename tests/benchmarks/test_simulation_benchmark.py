"""The benchmark of the simulation: its committed results cover every category, and rejected draws are counted once."""

from pathlib import Path

import pytest

from phys4d.benchmarks import results, simulation, simulation_lengths, simulation_truth
from phys4d.engine.errors import UserError
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.generate import SimulateConfig, simulate


def test_every_category_has_at_least_four_families_and_a_bar() -> None:
    assert set(simulation.BARS) == set(CATEGORIES)
    assert all(len(families) >= 4 for families in CATEGORIES.values())


def test_the_committed_time_of_workers_is_of_one_and_two() -> None:
    found = results.committed("simulation/workers.json")
    assert [row["workers"] for row in found["rows"]] == [1, 2]


@pytest.mark.parametrize("kind", ["workers", "lengths", "truth"])
def test_committed_results_are_of_committed_code(kind: str) -> None:
    rows = results.committed(f"simulation/{kind}.json")["rows"]
    assert rows and not any(row["provenance"]["git_revision"].endswith("-dirty") for row in rows)


def test_every_category_has_its_cost_before_and_after() -> None:
    rows = results.committed("simulation/cost.json")["rows"]
    for label in ("before", "after"):
        assert {row["category"] for row in rows if row["as"] == label} == set(CATEGORIES)


def test_what_is_dropped_is_counted_once_and_shown_as_a_share() -> None:
    rows = [
        {"category": "rope", "clips": 10, "dropped": {"coil: energy grows": 1}, "redrawn": {}},
        {"category": "rope", "clips": 9, "dropped": {}, "redrawn": {"coil: badly framed": 4, "drape: badly framed": 1}},
    ]
    merged = simulation._merged(rows)
    assert len(merged) == 1 and merged[0]["clips"] == 19
    merged[0]["provenance"] = {"cores": 2, "cpu": "x", "git_revision": "y", "date": "2026"}
    table = simulation.dropped_table({"rows": merged})
    assert "| rope | 19 | 25 | 4.0% | 20.0% | badly framed 5, energy grows 1 |" in table


def test_clips_that_are_not_there_count_as_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_lengths, "CATEGORIES", {"rigid": None, "articulated": None})
    config = SimulateConfig(categories=("rigid", "articulated"), clips=4, size=(32, 32), frames=9, seed=3)
    summary = simulate(config, tmp_path / "clips", workers=1)
    row = simulation_lengths.counts(tmp_path / "clips", 5)
    assert row["refused"] == ["ramp"] and row["families"] == row["clips"] == 4 and row["asked"] == 5
    assert row["dropped"] == 0 and row["redrawn"] == sum(summary.redrawn.values())
    row["provenance"] = {"git_revision": "y"}
    line = f"| 9 at 24 | 0.4 | 4 | 4 of {sum(map(len, CATEGORIES.values()))} | ramp | 0.0% |"
    assert line in simulation_lengths.table({"rows": [row]})
    with pytest.raises(UserError, match="clip clip000003 was not asked for"):
        simulation_lengths.counts(tmp_path / "clips", 3)
    monkeypatch.setattr(simulation_lengths, "CATEGORIES", {"articulated": None, "rigid": None})
    with pytest.raises(UserError, match="clip000000 is not of family double_pendulum"):
        simulation_lengths.counts(tmp_path / "clips", 5)


def test_the_committed_check_of_truth_covers_every_category_and_found_nothing_wrong() -> None:
    rows = results.committed("simulation/truth.json")["rows"]
    assert {(row["category"], row["camera"]) for row in rows} == {
        (category, camera) for category in CATEGORIES for camera in simulation_truth.CAMERAS
    }
    assert all(row["pixels"] > 1e6 and row["landing_points"] > 1e6 for row in rows)
    assert sum(row["wrong_surfaces"] + row["wrong_visibilities"] for row in rows) == 0


def test_the_committed_lengths_meet_their_bars() -> None:
    """No family refused, less than a tenth of the draws dropped, 60 % of the clips move in their last quarter."""
    rows = results.committed("simulation/lengths.json")["rows"]
    assert {(row["frames"], row["fps"]) for row in rows} >= {(25, 24), (81, 24), (121, 24)}
    for row in rows:
        assert not row["refused"] and row["families"] == sum(map(len, CATEGORIES.values()))
        assert row["dropped"] < 0.1 * (row["clips"] + row["dropped"] + row["redrawn"])
        assert row["late"] >= 0.6 * row["clips"]
