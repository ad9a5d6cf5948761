"""What the engine adds to a step beside a bare torch loop, and how a step scales from one process to several.

    python -m phys4d.benchmarks.engine_overhead [--steps 200] [--ranks 2] [--device cpu] [--out DIR]

A transformer is trained twice on equal batches, by `engine.training.loop.train` into a run folder and by the loop
`bare` below, in turn: a step of one, a step of the other, so that whatever else the machine does slows both down.
Compared are the times of two steps that follow each other, and their medians. Step 1 prepares, and in step 2 the engine
counts FLOPs, once in a session: both are left out, and the second is stated.

Then as many processes as `--ranks` train on one core each, each on a batch of that size (FSDP2), beside one process on
one core: weak scaling.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.benchmarks import results
from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel, own_device
from phys4d.engine.run_folder.provenance import provenance
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig, OptimizerStep, train

TOKENS, BATCH, LOG_EVERY = 128, 8, 10
RATE, CLIP, BETAS, DECAY = 1e-4, 1.0, (0.9, 0.95), 0.01
LEFT_OUT = 2  # steps


class Network(nn.Module):
    """layers blocks of so many channels."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, width], as the result."""
        for block in self.blocks:
            x = block(x)
        return x


def network(width: int, layers: int) -> Network:
    """With the same weights each time."""
    torch.manual_seed(0)
    return Network(width, layers)


def data(width: int, device: torch.device) -> Tensor:
    """One batch, which every step sees."""
    return torch.randn(BATCH, TOKENS, width, generator=torch.Generator().manual_seed(1)).to(device)


def bare(net: nn.Module, x: Tensor, log: Path) -> Iterator[float]:
    """What a step needs, and a line of log every tenth; gives the seconds of each step."""
    parameters = list(net.parameters())
    adamw = torch.optim.AdamW(parameters, RATE, betas=BETAS, weight_decay=DECAY, fused=True)
    with log.open("a") as file:
        step, since, total = 0, time.perf_counter(), torch.zeros((), device=x.device)
        while True:
            begun = time.perf_counter()
            for group in adamw.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / 100)
            adamw.zero_grad(set_to_none=True)
            loss = (net(x) - x).square().mean()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, CLIP)
            adamw.step()
            total += loss.detach()
            step += 1
            if step % LOG_EVERY == 0:
                line = {"step": step, "loss": float(total) / LOG_EVERY, "grad_norm": float(norm)}
                file.write(json.dumps(line | {"seconds": time.perf_counter() - since}) + "\n")
                file.flush()
                total.zero_()
            yield time.perf_counter() - begun


class Settings(Config):
    """Of the run folder."""

    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=RATE, clip_norm=CLIP, betas=BETAS, weight_decay=DECAY, warmup_steps=100
    )
    loop: LoopConfig


class Beside:
    """An objective that takes a step of the bare loop before each of its own, and keeps the times of both."""

    name = "overhead"

    def __init__(self, parallel: Parallel, width: int, layers: int, other: Iterator[float] | None) -> None:
        net = network(width, layers)
        self.net = parallel.shard(net.to(parallel.device), list(net.blocks))
        self.x, self.share, self.other = data(width, parallel.device), parallel.share, other
        self.own, self.bare, self._since = list[float](), list[float](), 0.0

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "net", "params": list(self.net.parameters()), "lr_scale": 1.0}]

    def samples(self) -> tuple[str, ...]:
        return ()

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        if step:
            self.own.append(time.perf_counter() - self._since)
        if self.other is not None:
            self.bare.append(next(self.other))
        self._since = time.perf_counter()
        kept = []

        def loss() -> Tensor:
            kept.append((self.net(self.x) - self.x).square().mean() * self.share)
            return kept[-1]

        optimizer_step([loss])
        return {"loss": kept[0].detach()}


def run(parallel: Parallel, width: int, layers: int, steps: int, *, beside: bool) -> Beside:
    """Trains into a run folder that is removed behind it."""
    with tempfile.TemporaryDirectory() as place:
        other = bare(network(width, layers).to(parallel.device), data(width, parallel.device), Path(place) / "log")
        objective = Beside(parallel, width, layers, other if beside else None)
        settings = Settings(loop=LoopConfig(steps=steps + LEFT_OUT + 1, log_every=LOG_EVERY))
        shared = [place]
        if parallel.world_size > 1:
            torch.distributed.broadcast_object_list(shared)
        with Run.create(Path(shared[0]) / "run", settings, resume=False) as folder:
            train(
                objective, optimizer=settings.optimizer, loop=settings.loop, run=folder, parallel=parallel, resume=False
            )
            parallel.any(False)  # before its place is removed
    return objective


def overhead(width: int, layers: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Both loops in turn on one process."""
    found = run(Parallel.alone(device), width, layers, steps, beside=True)
    own, other = found.own[LEFT_OUT:], found.bare[LEFT_OUT : len(found.own)]
    difference = statistics.median(a - b for a, b in zip(own, other, strict=True))
    bare_median = statistics.median(other)
    return {
        "steps": len(own), "bare_ms": 1e3 * bare_median, "engine_ms": 1e3 * statistics.median(own),
        "difference_ms": 1e3 * difference, "share": difference / bare_median,
        "bare_mean_ms": 1e3 * statistics.mean(other), "engine_mean_ms": 1e3 * statistics.mean(own),
        "counting_step_ms": 1e3 * found.own[1], "tensors": len(list(found.net.parameters())),
        "parameters": sum(p.numel() for p in found.net.parameters()), "threads": torch.get_num_threads(),
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
    }  # fmt: skip


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Median step of one process and of `options.ranks`, each on one core."""
    rows = []
    for ranks in (1, options.ranks):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += ["-m", "phys4d.benchmarks.engine_overhead", "--one", "--steps", str(options.steps)]
        command += ["--width", str(options.width), "--layers", str(options.layers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(f"a rank ended with {done.returncode}, see above")
        rows.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    for row in rows:
        row["efficiency"] = rows[0]["step_ms"] / row["step_ms"]
    return rows


def one_rank(options: argparse.Namespace) -> None:
    """Prints the median step of a run over all ranks."""
    torch.set_num_threads(1)
    with Parallel.start() as parallel:
        found = run(parallel, options.width, options.layers, options.steps, beside=False)
        if parallel.rank == 0:
            step_ms = 1e3 * statistics.median(found.own[LEFT_OUT:])
            print(json.dumps({"ranks": parallel.world_size, "step_ms": step_ms}), flush=True)


def table(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    one = found["overhead"]
    lines = [
        f"{one['steps']} steps of each in turn, {one['tensors']} tensors, {one['parameters'] / 1e6:.1f} M parameters, "
        f"{one['device']}:",
        "",
        "| | bare loop | engine | |",
        "|---|---|---|---|",
        f"| median step, ms | {one['bare_ms']:.2f} | {one['engine_ms']:.2f} | "
        f"median difference {one['difference_ms']:+.2f} ms, {one['share']:+.1%} |",
        f"| mean step, ms | {one['bare_mean_ms']:.2f} | {one['engine_mean_ms']:.2f} | "
        f"once in a session {one['counting_step_ms']:.0f} ms, with FLOPs counted |",
    ]
    if found["scaling"]:
        lines += ["", "| processes | clips a step | median step, ms | weak scaling |", "|---|---|---|---|"]
        lines += [
            f"| {row['ranks']} | {row['ranks'] * BATCH} | {row['step_ms']:.1f} | {row['efficiency']:.0%} |"
            for row in found["scaling"]
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.engine_overhead")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--ranks", type=int, default=0, help="also scale to so many processes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_rank(options)
        sys.exit()
    where = torch.device("cpu") if options.device == "cpu" else own_device(0, 0)
    found = {
        "overhead": overhead(options.width, options.layers, options.steps, where),
        "scaling": scaling(options) if options.ranks else [],
        "provenance": provenance(),
    }
    print(table(found))
    if options.out is not None:
        results.write(options.out / "engine-overhead.json", found)
