"""Counted visits of a tree search: the NumPy form of the Triton search and the native count agree."""

import pytest
import torch

from phys4d.benchmarks import results, tree_visits
from phys4d.kernels import native
from phys4d.kernels.geometry.clouds.point_tree import grow_both

pytestmark = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])


def test_queries_that_are_all_the_same_walk_as_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(1, 3, generator=generator).expand(32, 3).contiguous(), torch.rand(3000, 3, generator=generator)
    lengths = torch.tensor([32]), torch.tensor([3000])
    trees = grow_both(x[None], y[None], *lengths)
    order = trees[0].order.flatten(1)
    alone = torch.ops.phys4d.tree_visits(x[None], lengths[0], order, y[None], lengths[1], *trees[1])[0]
    groups, leaves = tree_visits.together(x.numpy(), trees[1])
    assert (alone[:, 1] == leaves).all() and (alone[:, 0] <= groups).all()  # which looks again after every leaf
    assert groups <= alone[0, 0] + leaves


def test_queries_that_search_together_visit_what_any_of_them_needs() -> None:
    generator = torch.Generator().manual_seed(1)
    found = tree_visits.counted(*(torch.rand(2000, 3, generator=generator) for _ in range(2)))
    for what in ("groups", "leaves"):
        assert found[what] <= found[f"{what}_longest"] <= found[f"{what}_together"]
    assert 0 < found["native_ms"] < found["triton_ms"]


def test_the_committed_counts_are_small() -> None:
    rows = results.committed("tree-visits.json")["rows"]
    assert len(tree_visits.table(rows).splitlines()) == 2 + len(rows)
    assert all(row["leaves"] < 20 and row["leaves_together"] < 60 for row in rows)
