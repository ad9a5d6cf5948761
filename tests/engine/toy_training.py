"""A tiny stage, run as a program by the tests: alone, under torchrun, and killed on purpose.

python toy_training.py FOLDER [--resume] [--kill-at STEP]   SIGKILL itself in that step
torchrun ... toy_training.py FOLDER --stop-rank R           also: a second run, in which only rank R gets a
                                                            SIGTERM, in step 3, and which is then resumed
torchrun ... toy_training.py FOLDER --zero STAGE ...        divided by DeepSpeed instead of FSDP2
"""

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.config import Config
from phys4d.engine.data.sampler import Course, Order
from phys4d.engine.distributed.collectives import full
from phys4d.engine.distributed.mesh import ParallelConfig
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import Interrupted
from phys4d.engine.random import normal
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig, OptimizerStep, train

BATCH, SAMPLES, WIDTH = 4, 10, 16


class Block(nn.Module):
    """Attention and an MLP with residuals, the smallest thing shaped like a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(x)


class Net(nn.Module):
    """Two blocks (the first one's MLP frozen) and an odd-sized head; a timestep must arrive unrounded."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.blocks[0].mlp.requires_grad_(False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.tolist() == torch.tensor([701.3] * len(x)).tolist()
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Toy:
    """Regression of a fixed function of the sample, with noise that depends on step and place only."""

    name = "toy"

    def __init__(self, parallel: Parallel, stop: Callable[[int], None] = lambda step: None) -> None:
        self.parallel, self.stop = parallel, stop
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net, self.scale = Net(), nn.Linear(3, 3)
        parallel.shard(self.net, list(self.net.blocks))
        parallel.shard(self.scale)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "scale": self.scale}

    def parameter_groups(self) -> list[dict[str, Any]]:
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        return [
            {"name": "net", "params": trained, "lr_scale": 1.0},
            {"name": "scale", "params": list(self.scale.parameters()), "lr_scale": 0.1},
        ]

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        self.stop(step)
        self.drawn = self.parallel.local(Course(Order(0, [0] * SAMPLES)).batch(step, BATCH))
        places = self.parallel.local(range(BATCH))
        losses: list[Tensor] = []

        def loss(sample: int, place: int) -> Tensor:
            x, noise = normal((1, 5, WIDTH), "data", sample), normal((1, 5, WIDTH), "noise", step, place)
            predicted = self.scale(self.net(x + 0.1 * noise, torch.tensor([701.3])))
            losses.append((predicted - x[..., :3]).square().mean() / BATCH)
            return losses[-1]

        optimizer_step([partial(loss, *pair) for pair in zip(self.drawn, places, strict=True)])
        return {"loss": torch.stack(losses).sum()}

    def samples(self) -> list[str]:
        return [f"sample {sample}" for sample in self.drawn]


class ToyRun(Config):
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=2e-2, ema=0.9, warmup_steps=2, decay_fraction=0.5
    )
    loop: LoopConfig = LoopConfig(steps=6, log_every=1, checkpoint_every=3)


def run_toy(
    folder: Path, parallel: Parallel, *, resume: bool, stop: Callable[[int], None] = lambda step: None
) -> Toy:
    """Trains the toy in `folder` and returns it."""
    config, toy = ToyRun(), Toy(parallel, stop)
    with Run.create(folder, config, resume=resume) as run:
        train(toy, optimizer=config.optimizer, loop=config.loop, run=run, parallel=parallel, resume=resume)
    return toy


def weights(toy: Toy) -> dict[str, Tensor]:
    """All weights, whole, by name."""
    return {name: full(value).detach().clone() for name, value in named_parameters(toy.modules()).items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--stop-rank", type=int, default=-1)
    parser.add_argument("--zero", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parallel = Parallel.start()
    if options.zero is not None:
        parallel.arrange(ParallelConfig(strategy="deepspeed", zero_stage=options.zero))

    def stop(step: int) -> None:
        if step == options.kill_at:
            while any(thread.name.startswith("checkpoint of step") for thread in threading.enumerate()):
                time.sleep(0.01)  # until the checkpoint before is written
            os.kill(os.getpid(), signal.SIGKILL if options.stop_rank < 0 else signal.SIGTERM)

    toy = run_toy(options.folder, parallel, resume=options.resume, stop=stop)
    torch.save(weights(toy), options.folder / f"weights-{parallel.rank}.pt")
    if options.stop_rank >= 0:
        second = options.folder.with_name(options.folder.name + "-stopped")
        options.kill_at = 3 if parallel.rank == options.stop_rank else -1
        try:
            run_toy(second, parallel, resume=False, stop=stop)
            raise AssertionError("the signal to one rank did not stop the run")
        except Interrupted as interrupted:
            assert interrupted.step == 4, interrupted
        options.kill_at = -1
        torch.save(weights(run_toy(second, parallel, resume=True)), second / f"weights-{parallel.rank}.pt")
    parallel.close()


if __name__ == "__main__":
    main()
