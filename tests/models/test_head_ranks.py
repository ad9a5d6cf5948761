"""Heads of two ranks, with frames divided over a context group or sharded weights, give what one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The folder of what two ranks found, and what one process found."""
    folder = tmp_path_factory.mktemp("ranks")
    program = [str(Path(__file__).with_name("head_ranks.py")), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program],
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        cwd=repository, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["conv", "dpt", "linear"])
@pytest.mark.parametrize("how", ["divided", "sharded"])
def test_two_ranks_give_what_one_does(kind: str, how: str, ranks: Path) -> None:
    """Frames divided over a context group; or weights sharded by FSDP2, with chunks that are computed again."""
    one, *both = (torch.load(ranks / f"{kind}-{name}.pt") for name in ("alone", f"{how}-0", f"{how}-1"))
    for rank in both:
        for name in ("depth", "motion"):
            torch.testing.assert_close(rank[name], one[name])
    for name, gradient in one["gradients"].items():  # every rank's loss is the whole loss: the sum is twice it
        summed = both[0]["gradients"][name] + both[1]["gradients"][name]
        torch.testing.assert_close(summed, 2 * gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name)
