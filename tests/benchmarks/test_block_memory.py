"""Memory of blocks counted on fake tensors equals that of real ones."""

import pytest
import torch

from phys4d.benchmarks import block_memory, blocks, results
from phys4d.benchmarks.cases import BLOCKS
from phys4d.engine.costs.memory import Peak

LONG = ("wan-block", "opensora-temporal-block")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (case.name in LONG)) for case in BLOCKS],
)
def test_tensors_without_numbers_take_what_real_ones_take(case):
    small = blocks.small(case)
    assert block_memory.counted(small) == block_memory.of(small)


def test_a_peak_holds_what_lives_at_once_and_each_storage_once():
    x = torch.zeros(1024)
    with Peak([x]) as counted:
        y = x + 1
        y.view(2, -1).add_(1)
        del y
        z = (x + 1) + 1
    assert counted.most == 2 * x.nbytes and counted.live == z.nbytes


def test_kept_are_storages_of_the_forward_pass_beyond_what_was_given():
    x = torch.ones(256, requires_grad=True)
    weight = torch.ones(256, requires_grad=True)
    variant = blocks.Variant(lambda x: (x * weight).exp().sin(), [weight], {"x": x}, {})
    assert block_memory.kept(variant) == x.nbytes  # of exp, whose result sin takes too


def test_the_committed_result_covers_every_case_and_our_operators_keep_less():
    rows = results.committed("block-memory.json")["rows"]
    names = {case.name for case in BLOCKS}
    assert {row["case"] for row in rows} == names
    for name in names:
        memory = {row["backend"]: row["kept_mb"] for row in rows if row["case"] == name}
        assert memory["ours, both"] < min(memory["ours, attention"], memory["ours, adaptive norm"]) < memory["stock"]
