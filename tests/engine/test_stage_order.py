"""The order of stages and their gates: what stops a run between two stages, and what a condition means."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from phys4d.engine.config import Config, build, dump_toml
from phys4d.engine.errors import GateNotReached, UserError
from phys4d.engine.training.gate import Gate, holds, outcomes
from phys4d.engine.training.schedule import run_in_order


class Table(Config):
    gate: Gate = {}


def test_each_stage_is_compared_run_and_measured_before_the_next(tmp_path: Path) -> None:
    outputs = {stage: tmp_path / stage for stage in "abc"}
    outputs["a"].mkdir()
    seen: list[Any] = []

    def execute(stage: str, given: Path | None) -> None:
        seen.append(("execute", stage, given))
        outputs[stage].mkdir()

    def after(stage: str) -> None:
        seen.append(("after", stage))
        if stage == "b":
            raise GateNotReached(stage, "b: gate not reached")

    with pytest.raises(GateNotReached):
        run_in_order(
            "abc", outputs, execute, tmp_path, before=lambda *given: seen.append(("before", *given)), after=after
        )
    assert seen == [
        ("before", "a", tmp_path), ("after", "a"),
        ("before", "b", outputs["a"]), ("execute", "b", outputs["a"]), ("after", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "below", "equal", "above"),
    [("< 0.5", True, False, False), ("<=.5", True, True, False), (">5e-1", False, False, True),
     (" >= +0.50 ", False, True, True)],
)  # fmt: skip
def test_a_condition_compares_with_a_number(condition: str, below: bool, equal: bool, above: bool) -> None:
    assert [holds(value, condition) for value in (0.4, 0.5, 0.6)] == [below, equal, above]
    assert not any(holds(value, condition) for value in (None, math.nan, math.inf, -math.inf))


def test_outcomes_keep_value_and_condition() -> None:
    found = outcomes({"a": "< 1", "b": "> 1", "c": "< 1"}, {"a": 0.5, "b": math.nan})
    assert [one.model_dump() for one in found.values()] == [
        {"value": 0.5, "condition": "< 1", "reached": True},
        {"value": None, "condition": "> 1", "reached": False},
        {"value": None, "condition": "< 1", "reached": False},
    ]


def test_dotted_metrics_are_tables_in_toml_and_come_back_equal() -> None:
    text = 'gate = { warp_l1 = "< 0.03", train.loss = "< 1" }'
    table = build(Table, tomllib.loads(text), "file")
    assert table.gate == {"warp_l1": "< 0.03", "train.loss": "< 1"}
    assert build(Table, tomllib.loads(dump_toml(table)), "file") == table


@pytest.mark.parametrize("condition", ["0.03", "= 1", "< x", "< 1e", "< 1e999", "< nan", "<", "1 < 2", "< 1 2", ""])
def test_what_is_no_condition_is_refused(condition: str) -> None:
    line = 'loop: expected a comparison with a number, such as "< 0.03" or ">= 0.5", got '
    with pytest.raises(UserError) as caught:
        build(Table, {"gate": {"loop": condition}}, "file")
    assert str(caught.value).startswith(f"file: gate: {line}")


@pytest.mark.parametrize(("gate", "expected"), [({"a": 0.3}, "a string, got 0.3"), (["< 1"], "a table, got")])
def test_a_gate_of_another_type_is_refused(gate: Any, expected: str) -> None:
    with pytest.raises(UserError, match=f"^file: gate.*: expected {expected}"):
        build(Table, {"gate": gate}, "file")
