"""Wan2.1-I2V whose tokens are divided over two processes predicts, taps and learns what it does in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch, torch.distributed as dist
from pathlib import Path
from phys4d.engine.distributed.collectives import leave_group
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.placement import place

torch.set_num_threads(1)
loaded = folder.released(Path(sys.argv[1]), ModelConfig(kind="wan21", taps=(0, 2)), (9, 32, 48))
world = place(loaded.model.eval(), Parallel.alone())
dist.init_process_group("gloo")
backbone = world.backbone.requires_grad_(True)
draw = torch.Generator().manual_seed(0)
noisy, first = torch.randn(1, 4, 3, 4, 6, generator=draw), torch.randn(1, 4, 4, 4, 6, generator=draw)
sigma, text = torch.tensor([0.9]), world.text(["a ball"])
predictions, gradients = [], []
for group in (None, dist.group.WORLD):
    backbone.use_attention("auto", group)
    backbone.zero_grad()
    found = backbone(noisy, sigma, text, first)
    loss = found.clean.square().mean() + sum(h.square().mean() for h in found.hidden)
    loss.backward()
    predictions.append([found.velocity, found.clean, *found.hidden])
    named = dict(backbone.transformer.named_parameters())
    for parameter in named.values():
        if group is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
    gradients.append({name: parameter.grad.clone() for name, parameter in named.items()})
for one, divided in zip(*predictions):
    torch.testing.assert_close(divided, one, rtol=1e-4, atol=1e-5)
for name, one in gradients[0].items():
    torch.testing.assert_close(gradients[1][name], one, rtol=1e-3, atol=1e-3 * float(one.abs().max()) + 1e-8)
leave_group()
print("right")
"""


@pytest.mark.slow
@pytest.mark.parametrize("wan21", ["image"], indirect=True)
def test_two_processes_predict_and_tap_what_one_does(wan21: Path, tmp_path: Path, repository: Path) -> None:
    """Velocity, clean latents, hidden tokens, and all gradients, averaged over the ranks."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program), str(wan21)]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *torchrun], env=environment, cwd=repository, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["right", "right"]
