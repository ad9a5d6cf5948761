"""The benchmark of warps: rivals compute the same, the table names the best."""

import pytest
import torch

from phys4d.benchmarks import cpu_suite
from phys4d.benchmarks.warping import CASES, NO_BACKWARD, inputs, measure, rivals, table

SMALL = (1, 4, 24, 20)


@pytest.mark.parametrize("case", CASES)
def test_rivals_compute_the_same_and_its_gradients(case: str) -> None:
    made, leaves = rivals(case, inputs(SMALL))
    ours = made.pop("ours")()
    assert ours.any() and not ours.all()
    for name, rival in made.items():
        found = rival()
        # cv2 rounds coordinates to 1/32 px; a landing point may round to another side of a border.
        torch.testing.assert_close(found.double(), ours.double(), rtol=0, atol=0.03 if name in NO_BACKWARD else 1e-4)
        if not leaves or name in NO_BACKWARD:
            continue
        for mine, other in zip(
            torch.autograd.grad(ours.sum(), leaves, retain_graph=True),
            torch.autograd.grad(found.sum(), leaves),
            strict=True,
        ):
            assert (mine - other).abs().sum() <= 2e-3 * mine.abs().sum() + 1e-3, name


def test_rows_and_table_name_every_rival_and_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_suite, "memory", lambda kind, case, rival, shape: 10.0)
    rows = measure("flow_warp", SMALL, rounds=3, threads=(1, 2))
    assert [(row["backend"], row["threads"]) for row in rows] == [
        (name, threads) for threads in (1, 2) for name in ("ours", "eager", "grid_sample", "cv2.remap")
    ]
    for row in rows:
        assert row["forward_ms"] > 0 and (row["ms"] is None) == (row["backend"] in NO_BACKWARD)
        assert row["error"] < (0.05 if row["backend"] in NO_BACKWARD else 1e-4)
        row["forward_ms"] = {"ours": 2.0, "cv2.remap": 3.0}.get(row["backend"], 8.0)
        row["ms"] = row["ms"] and {"ours": 2.0}.get(row["backend"], 10.0)
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows) and sum("| 1.5, 5.0 |" in line for line in lines) == 2
