"""The training loop of a stage: steps, logs, checkpoints, exact resume, and an orderly stop on a signal."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from phys4d.engine import checkpoint
from phys4d.engine.distributed.parallel import Parallel, on_all_ranks
from phys4d.engine.errors import Interrupted, UserError
from phys4d.engine.progress import progress
from phys4d.engine.run_folder.run import Run
from phys4d.engine.signals import deferred
from phys4d.engine.training.length import Length, LoopConfig, check_decay
from phys4d.engine.training.optimizer import Optimizer, OptimizerConfig

__all__ = ["Interrupted", "LoopConfig", "Objective", "OptimizerConfig", "train"]


class Objective(Protocol):
    """The objective of a stage.

    All its randomness must be a function of `step` and sample indices (`phys4d.engine.random`), since a checkpoint
    contains only parameters, optimizer state and EMA.
    """

    name: str
    """Name of the stage, and of the table with its settings in the run file; error messages use it."""

    def modules(self) -> dict[str, nn.Module]:
        """Modules by name; their parameters with requires_grad are trained and checkpointed."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """[{"params": [...], "lr_scale": float}, ...]; together exactly the trained parameters."""

    def update(self, step: int, optimizer_step: Callable[[Tensor], Tensor]) -> dict[str, Tensor | float]:
        """Computes one training step on this rank's share of the global batch.

        step: number of the step, from 0.
        optimizer_step: loss -> gradient norm; to be called once for each optimizer step.

        Returns scalars to log, without a host sync; every rank returns the same names. A UserError must be raised on
        all ranks (`parallel.on_all_ranks`); if it, or any error of a process that is alone, is raised before the step's
        first `optimizer_step`, the previous steps are saved in a checkpoint.
        """


def train(
    objective: Objective,
    *,
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    run: Run,
    parallel: Parallel,
    resume: bool,
) -> None:
    """Trains `objective` to the end of its length, from the latest checkpoint if `resume` finds one.

    Every `log_every` steps and at each checkpoint it logs means over the steps since the last line and over the ranks:
        the scalars that `update` returns, grad_norm, learning_rate and seconds (per step). Step numbers in logs and
        checkpoints count finished steps. At the end the modules contain the EMA weights if `optimizer.ema` > 0.

    objective: losses and modules.
    optimizer, loop: settings, global; a length in samples is given in steps (`length.in_steps`).
    run: run folder; for a length in hours its clock must count for the stage (`Clock.stage`).
    parallel: ranks and device.
    resume: continue from the latest checkpoint of the stage.

    Raises Interrupted after SIGTERM, SIGINT, SIGHUP or SIGUSR1, when the step is finished and a checkpoint is written;
    Stopped immediately if SIGTERM, SIGINT or SIGHUP arrives again two seconds later or after more; UserError if a
    gradient is not finite, the checkpoint does not fit, or the disk is full or lacks, at the start, space for the
    coming checkpoints.
    """
    state = Optimizer(optimizer, objective.modules(), objective.parameter_groups())
    if parallel.mesh is not None:
        alone = [name for name, value in state.parameters.items() if not isinstance(value, DTensor)]
        if alone:  # gradients of unsharded parameters are not averaged over the ranks
            raise ValueError(f"{objective.name}: {alone[0]} is trained but was not given to Parallel.shard")
    check_decay(objective.name, loop, optimizer.decay_fraction)
    length = Length(loop, objective.name, run.clock, parallel)
    path, start = (checkpoint.latest(run.folder, objective.name) if resume else None) or (None, 0)
    on_all_ranks(lambda: length.begin(start, path))
    if path is not None:
        found = path
        on_all_ranks(lambda: checkpoint.load(found, state.state()))

    def check_room() -> None:
        if run.writes:  # rank 0; all ranks write to the disk of its folder
            writes = length.writes(start)
            checkpoint.check_room(run.folder, objective.name, state.state(), writes=writes, keep=loop.keep)

    on_all_ranks(check_room)
    run.resume_at(objective.name, start)
    if not length.over:
        _steps(objective, state, loop, length, run, parallel, start)
    state.use_ema()


def _steps(
    objective: Objective, state: Optimizer, loop: LoopConfig, length: Length, run: Run, parallel: Parallel, start: int
) -> None:
    window = _Window()

    def log(done: int) -> dict[str, float]:
        nonlocal window
        values = window.means(parallel)
        window = _Window()
        rate = state.schedule(length.horizon, done - 1)

        def write() -> None:
            if parallel.rank == 0:
                _finite(objective.name, done, values, run.folder, start)
                run.log(objective.name, done, values | {"learning_rate": rate})

        on_all_ranks(write)
        return {name: value for name, value in values.items() if name in ("loss", "reward")}

    def save(done: int) -> Path:
        with parallel.at(f"saving step {done} of {objective.name}"):
            on_all_ranks(run.sync)
            path = checkpoint.save(run.folder, objective.name, done, state.state(), keep=loop.keep)
            on_all_ranks(run.clock.save)  # a later kill loses only the time from here on
        return path

    def update(step: int) -> bool:
        """One step; whether a rank has received a signal."""
        limit = parallel.timeouts.step if step > start else None  # kernels are compiled in the first
        with parallel.at(f"step {step + 1} of {objective.name}", limit):
            window.add(objective.update(step, window.optimizer_step(state)))
            length.passed(step + 1)
            return parallel.any(signals.received is not None)

    total, unit = length.work(start)
    with deferred() as signals, progress(objective.name, total, unit) as bar:
        for step in length.steps(start):
            state.schedule(length.horizon, step)
            updates = state.updates
            try:
                stopped = update(step)
            except Exception as error:
                # Any error of one process; of several ranks only those that all of them raise.
                together = isinstance(error, UserError) or parallel.world_size == 1
                if together and step > start and state.updates == updates:  # no update: save the previous steps
                    if window.steps:
                        log(step)
                    save(step)
                raise
            done = step + 1
            due = loop.checkpoint_every > 0 and done % loop.checkpoint_every == 0
            saved = stopped or due or length.over
            shown = log(done) if saved or done % loop.log_every == 0 else {}
            if saved:
                path = save(done)
            bar.advance(length.advance(total), **length.numbers(done), **shown)
            if stopped:
                raise Interrupted(objective.name, done, path)
        if parallel.any(signals.received is not None):  # arrived while the last checkpoint was written
            raise Interrupted(objective.name, done, path)


def _finite(stage: str, step: int, values: dict[str, float], folder: Path, start: int) -> None:
    """Raises UserError if the mean gradient norm is not finite; start: the step at which this session began."""
    norm = values.get("grad_norm", 0.0)
    if math.isfinite(norm):
        return
    what = f"{stage}: by step {step} the gradient norm is {norm}, training has diverged"
    lower = f"lower {stage}.optimizer.learning_rate"
    found = checkpoint.latest(folder, stage)
    if found is None:
        raise UserError(f"{what}: {lower}, then --resume, which begins the stage again")
    if found[1] == start:  # resumed from this checkpoint, and no later step was finite
        raise UserError(f"{what}: {lower}, or remove {found[0]}, which may have diverged too, then --resume")
    raise UserError(f"{what}: {lower}, then --resume, which goes on from {found[0].name}")


class _Window:
    """Sums of the logged scalars since the last log line, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}
        self.steps, self.since = 0, time.perf_counter()

    def optimizer_step(self, state: Optimizer) -> Callable[[Tensor], Tensor]:
        """`state.optimizer_step`, which also records the gradient norm."""

        def noted(loss: Tensor) -> Tensor:
            norm = state.optimizer_step(loss)
            self._note("grad_norm", norm)
            return norm

        return noted

    def add(self, values: dict[str, Tensor | float]) -> None:
        self.steps += 1
        for name, value in values.items():
            self._note(name, value)

    def _note(self, name: str, value: Tensor | float) -> None:
        value = value.detach().to(torch.float64) if isinstance(value, Tensor) else float(value)
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, parallel: Parallel) -> dict[str, float]:
        """Means over the window and the ranks (with a host sync), and seconds per step."""
        means = parallel.mean({name: total / self.counts[name] for name, total in self.sums.items()})
        return means | {"seconds": (time.perf_counter() - self.since) / self.steps}
