"""The Chamfer benchmark: peers agree with each other, and a result says under which load it was found."""

import torch

from phys4d.benchmarks.chamfer import THREADS, by_neighbours, chunks, measure, table, tree, uniform


def test_peers_find_the_same_distance_and_gradients() -> None:
    x, y = (cloud.double() for cloud in uniform(1500))
    results = []
    for find in (tree(1), tree(-1), chunks):
        leaves = [cloud.clone().requires_grad_() for cloud in (x, y)]
        value = by_neighbours(find, *leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, want)


def test_rows_hold_every_peer_and_the_load() -> None:
    rows = measure("uniform", *uniform(300), rounds=3)
    assert len(rows) == 5 * len(THREADS)
    assert {row["threads"] for row in rows} == set(THREADS)
    assert all(row["error"] < 1e-5 and row["ms"] > 0 and row["load_before"] >= 0 for row in rows)
    assert len(table(rows).splitlines()) == 2 + len(rows)
