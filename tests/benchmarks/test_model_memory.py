"""Counts of a whole transformer's training passes."""

import pytest
import torch

from phys4d.benchmarks import model_memory, results
from phys4d.engine.costs.memory import Kept, Moved


def test_moved_counts_inputs_and_outputs_of_what_is_no_view() -> None:
    x = torch.zeros(100)
    with Moved() as moved:
        x.view(10, 10).t()
        y = x + 1
        y.mul_(2)
    assert moved.bytes == 2 * x.nbytes + 2 * y.nbytes  # add_: reads x, writes y; mul_: reads and writes y


def test_kept_counts_each_storage_once_and_nothing_that_was_given() -> None:
    x = torch.ones(64, requires_grad=True)
    kept = Kept([x])
    with kept:
        (x * 2).exp().sin()  # exp keeps its result, sin keeps its input, which is the same
    assert kept.bytes == x.nbytes


@pytest.mark.slow
def test_a_block_more_costs_both_variants_what_a_block_costs() -> None:
    """What is counted grows linearly with the number of blocks, and ours is below stock in every figure."""
    case = model_memory.Case(5, 64, 64)
    one, two, three = (model_memory.counted(case, layers) for layers in (1, 2, 3))
    for a, b, c in zip(one, two, three, strict=True):
        assert c["moved_gib"] - b["moved_gib"] == pytest.approx(b["moved_gib"] - a["moved_gib"], rel=0.01)
    for stock, ours in zip(three[::2], three[1::2], strict=True):
        assert (stock["variant"], ours["variant"]) == ("stock", "phys4d")
        assert ours["moved_gib"] < stock["moved_gib"] and ours["kept_gib"] <= stock["kept_gib"]


def test_the_committed_counts_are_of_the_whole_transformer_and_below_stock() -> None:
    rows = results.committed("model-memory.json")["rows"]
    assert {row["case"] for row in rows} == set(model_memory.CASES)
    for stock, ours in zip(rows[::2], rows[1::2], strict=True):
        assert stock["layers"] == ours["layers"] == 30
        assert (stock["variant"], ours["variant"]) == ("stock", "phys4d")
        assert ours["peak_gib"] < stock["peak_gib"] and ours["moved_gib"] < stock["moved_gib"]
