"""Subnormal numbers are zero in every thread that computes in a process of a run, and what they were behind it."""

import subprocess
import sys

PROGRAM = """
import torch
from phys4d.engine.distributed.parallel import Parallel
torch.set_num_threads(2)
with Parallel.start():
    halves = torch.full((1 << 22,), 1e-39) * 0.5
    halves.requires_grad_().mul(1e-39).sum().backward()
    print(int((halves != 0).sum()), int((halves.grad != 0).sum()))
print(float(torch.tensor(1e-39) * 0.5) > 0)
"""


def test_no_thread_computes_with_subnormal_numbers() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "True"]
