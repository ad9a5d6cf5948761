"""The study of heads: every variant is a run file that differs where it says, and the table has what was measured."""

from pathlib import Path
from typing import Any

import pytest

from phys4d.benchmarks import heads, results
from phys4d.benchmarks.heads import REPORTED, VARIANTS, settings, table
from phys4d.stages.run_file import RunConfig


def leaves(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found = {}
    for key, value in settings.items():
        found |= leaves(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_where_it_says_and_nowhere_else(name: str) -> None:
    def configured(variant: str) -> dict[str, Any]:
        return leaves(RunConfig.model_validate(settings(Path("data"), Path("runs"), variant, 3)).model_dump())

    usual, changed = configured("recipe"), configured(name)
    model, stage, times = VARIANTS[name]
    different = {key for key in usual if usual[key] != changed[key]}
    asked = {f"model.{key}" for key in leaves(model)} | {f"pretrain.{key}" for key in leaves(stage)}
    assert different == asked - {"pretrain.optimizer.decay_fraction"}
    assert bool(different) == (times == 1 and name != "recipe")


def test_a_step_takes_what_two_runs_differ_by(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 15.0, 100.0, 121.0])  # 5 s for the short run, 21 s for the long one
    ran = []
    monkeypatch.setattr(heads, "process_time", lambda: next(clock))
    monkeypatch.setattr(heads, "finish", lambda config: ran.append(config.table("pretrain").loop.steps))
    assert heads.step_seconds(Path("data"), "linear") == pytest.approx((21 - 5) / (heads.LONG - heads.SHORT))
    assert ran == [heads.SHORT, heads.LONG]


def test_the_table_has_every_figure_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "origin", str)
    figures = {f: [0.1 * i, 0.01] for i, f in enumerate(("true_video", *REPORTED))}
    row = {"steps": 400, "step_seconds": 0.345, "figures": figures}
    lines = table({"variants": {"dpt": row}, "provenance": {}}).splitlines()
    assert lines[2].startswith("| dpt | 400 | 0.34 | 0.0000 ± 0.0100 | 0.1000 ± 0.0100 |")
    assert lines[0].count("|") == lines[2].count("|")
