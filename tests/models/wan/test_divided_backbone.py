"""A backbone whose tokens are divided over two processes predicts, and taps, what one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch, torch.distributed as dist
from phys4d.engine.distributed.collectives import leave_group
from phys4d.models.config import ModelConfig
from phys4d.models.world import create_model

torch.set_num_threads(1)
dist.init_process_group("gloo")
world = create_model(ModelConfig(width=64, layers=3, taps=(0, 1, 2)), 5, 16, 24, seed=0)
backbone = world.backbone
noisy = torch.randn(2, 192, 2, 4, 6, generator=torch.Generator().manual_seed(0))
sigma, text = torch.tensor([0.3, 0.9]), world.text(["a ball", ""])
predictions, gradients = [], []
for group in (None, dist.group.WORLD, None):
    backbone.use_attention("auto", group)
    backbone.zero_grad()
    found = backbone(noisy, sigma, text)
    loss = found.clean.square().mean() + sum(h.square().mean() for h in found.hidden)
    loss.backward()
    predictions.append([found.velocity, found.clean, *found.hidden])
    named = dict(backbone.transformer.named_parameters())
    for parameter in named.values():
        if group is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
    gradients.append({name: parameter.grad.clone() for name, parameter in named.items()})
for one, divided, again in zip(*predictions):
    torch.testing.assert_close(divided, one, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, one)
for name, one in gradients[0].items():
    torch.testing.assert_close(gradients[1][name], one, rtol=1e-3, atol=1e-4 * float(one.abs().max()) + 1e-9)
leave_group()
print("right")
"""


@pytest.mark.slow
def test_two_processes_predict_and_tap_what_one_does(tmp_path: Path, repository: Path) -> None:
    """Velocity, clean latents, hidden tokens of all blocks, and all gradients, averaged over the ranks."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *torchrun], env=environment, cwd=repository, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["right", "right"]
