"""The benchmark of losses: rivals compute the same, memory is counted, the table names the best."""

import subprocess
import sys

import pytest
import torch

from phys4d.benchmarks import cpu_suite
from phys4d.benchmarks.losses import CASES, inputs, measure, rivals, table

SMALL = (1, 4, 24, 20)


@pytest.mark.parametrize("case", CASES)
def test_rivals_compute_the_same_loss_and_gradients(case: str) -> None:
    made, leaves = rivals(case, inputs(SMALL))
    ours = made.pop("ours")()
    expected = torch.autograd.grad(ours, leaves)
    assert ours > 0
    for name, rival in made.items():
        value = rival()
        assert value.item() == pytest.approx(ours.item(), rel=1e-4), name
        for found, true in zip(torch.autograd.grad(value, leaves), expected, strict=True):
            assert (found - true).abs().sum() <= 2e-3 * true.abs().sum(), name


@pytest.mark.slow
def test_memory_is_what_a_fresh_process_needs_more() -> None:
    """The eager L1 keeps errors, masks and gradients of 3.1 MiB each; every rival needs at least the gradient."""
    sizes = [str(n) for n in (1, 17, 128, 128)]
    found = {}
    for rival in ("ours", "eager"):
        command = [sys.executable, "-m", "phys4d.benchmarks.losses", "--memory", "flow l1", rival, "--shape", *sizes]
        found[rival] = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    gradient = 3 * 16 * 128 * 128 * 4 / 2**20
    assert 0.5 * gradient < found["ours"] < found["eager"] < 20 * gradient


def test_rows_and_table_name_every_rival_and_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_suite, "memory", lambda kind, case, rival, shape: {"ours": 10.0}.get(rival, 45.0))
    rows = measure("warp", SMALL, rounds=3, threads=(1, 2))
    assert [(row["backend"], row["threads"]) for row in rows] == [
        (name, threads) for threads in (1, 2) for name in ("ours", "eager", "grid_sample", "bare grid_sample")
    ]
    assert all(row["ms"] > 0 and row["load"] >= 0 for row in rows)
    for row in rows:
        row["ms"] = {"ours": 2.0, "eager": 9.0, "grid_sample": 8.0, "bare grid_sample": 1.0}[row["backend"]]
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows) and sum("4.0 in time, 4.5 in memory" in line for line in lines) == 2
