"""A stage of two trained layers behind a frozen one, small enough that its figures are computed by hand."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig, train
from phys4d.engine.training.telemetry import Workload

ALONE = Parallel.alone()
BATCH, WIDTH = 4, 8


class Two:
    """A frozen layer before a trained one and a trained scale; the first step of a session evaluates more, and every
    second one `odd` times as many samples."""

    name = "two"

    def __init__(self, workload: Workload, extra: bool = True, odd: int = 1) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen, self.net, self.scale = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.frozen.requires_grad_(False)
        self.odd = odd
        self.workload, self.extra, self.gradients = workload, extra, [Tensor()]

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "scale": self.scale}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": n, "params": list(m.parameters()), "lr_scale": 1.0} for n, m in self.modules().items()]

    def update(self, step: int, optimizer_step: Any) -> dict[str, Tensor | float]:
        x = torch.arange(BATCH * WIDTH).view(BATCH, WIDTH) / 10 + step
        x = x.repeat(self.odd if step % 2 else 1, 1)
        if self.extra:
            self.frozen(x)
            self.extra = False
        with self.workload.waited:
            pass
        self.workload.waited.seconds += 0.25
        loss = self.scale(self.net(self.frozen(x)).tanh()).square().mean()
        self.gradients = torch.autograd.grad(loss, list(self.net.parameters()), retain_graph=True)
        optimizer_step([lambda: loss])
        return {"loss": loss}

    def samples(self) -> tuple[str, ...]:
        return ()


class Settings(Config):
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, clip_norm=0.01, ema=0.9)
    loop: LoopConfig = LoopConfig(steps=4, log_every=1)


def run_two(
    folder: Path, settings: Settings | None = None, workload: Workload | None = None, odd: int = 1
) -> tuple[list, Two]:
    settings, workload = settings or Settings(), workload or Workload()
    two = Two(workload, odd=odd)
    with Run.create(folder, settings, resume=folder.exists()) as run:
        train(
            two, optimizer=settings.optimizer, loop=settings.loop, run=run, parallel=ALONE, resume=True,
            workload=workload,
        )  # fmt: skip
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], two
