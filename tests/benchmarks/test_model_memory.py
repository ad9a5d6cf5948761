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


CASES = [model_memory.Case("wan2.1-t2v-1.3b", 5, 64, 64), model_memory.Case("cogvideox-5b", 9, 480, 720)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_few_blocks_extended_are_what_more_of_them_cost(case: model_memory.Case) -> None:
    """And ours moves less than stock."""
    for pass_ in model_memory.PASSES:
        moved = []
        for variant in model_memory.VARIANTS:
            found, counted = (f(case, 6, variant, pass_) for f in (model_memory.extended, model_memory.count))
            assert found == pytest.approx(counted, rel=1e-3)
            moved.append(found["moved_gib"])
        assert moved[1] < moved[0]


def test_the_committed_counts_are_of_whole_transformers_and_not_above_stock() -> None:
    rows = results.committed("model-memory.json")["rows"]
    assert {f"{row['model']}:{row['clip']}" for row in rows} == set(model_memory.CASES)
    for stock, ours in zip(rows[::2], rows[1::2], strict=True):
        assert stock["layers"] == ours["layers"] == model_memory.bare_model(stock["model"]).layers
        assert (stock["variant"], ours["variant"]) == ("stock", "phys4d")
        assert ours["peak_gib"] < 1.02 * stock["peak_gib"] and ours["moved_gib"] < 0.7 * stock["moved_gib"]


def test_every_model_is_timed_beside_its_stock() -> None:
    rows = results.committed("model-memory.json")["times"]
    assert {row["model"] for row in rows} == {"demo", "wan2.2", "wan2.1", "cogvideox"}
    for stock, ours in zip(rows[::2], rows[1::2], strict=True):
        assert (stock["variant"], ours["variant"]) == ("stock", "phys4d") and stock["pass"] == ours["pass"]
