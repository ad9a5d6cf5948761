"""The training loop of a stage: steps, logs, checkpoints, exact resume, and an orderly stop on a signal."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from phys4d.engine import checkpoint
from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel, on_all_ranks
from phys4d.engine.errors import Interrupted, UserError
from phys4d.engine.progress import progress
from phys4d.engine.resume import SAME_WEIGHTS, OnResume
from phys4d.engine.run_folder.run import Run
from phys4d.engine.signals import deferred
from phys4d.engine.training.optimizer import Optimizer, OptimizerConfig
from phys4d.engine.training.profiler import ProfileConfig, Profiler
from phys4d.engine.training.telemetry import Telemetry, Workload

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
        """[{"name": str, "params": [...], "lr_scale": float}, ...]; together exactly the trained parameters. The name
        is that of the group's gradient norm in the log."""

    def update(self, step: int, optimizer_step: Callable[[Tensor], Tensor]) -> dict[str, Tensor | float]:
        """Computes one training step on this rank's share of the global batch.

        step: number of the step, from 0.
        optimizer_step: loss -> gradient norm; to be called once for each optimizer step.

        Returns scalars to log, without a host sync; every rank returns the same names. A UserError must be raised on
        all ranks (`parallel.on_all_ranks`); if it, or any error of a process that is alone, is raised before the step's
        first `optimizer_step`, the previous steps are saved in a checkpoint.
        """


_LENGTH = OnResume("the weights are those of a run started with it where optimizer.decay_fraction is 0")


class LoopConfig(Config):
    """Length, logging and checkpoints of a stage; all values are global, in steps of the global batch.

    steps: number of training steps.
    log_every: steps between log lines.
    checkpoint_every: steps between checkpoints, 0 for one checkpoint at the end. What ends a process without warning
        costs at most so many steps.
    keep: number of checkpoints of the stage that remain on the disk.
    profile: steps that are recorded by torch's profiler; none: no step.
    """

    steps: Annotated[int, _LENGTH] = Field(ge=1)
    log_every: Annotated[int, SAME_WEIGHTS] = Field(20, ge=1)
    checkpoint_every: Annotated[int, SAME_WEIGHTS] = Field(200, ge=0)
    keep: Annotated[int, SAME_WEIGHTS] = Field(2, ge=1)
    profile: Annotated[ProfileConfig | None, SAME_WEIGHTS] = None

    @model_validator(mode="after")
    def _profiled_steps_exist(self) -> Self:
        if self.profile is not None and self.profile.last > self.steps:
            raise ValueError(f"profile: steps {self.profile.start} to {self.profile.last} of {self.steps}: lower start")
        return self


def train(
    objective: Objective,
    *,
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    run: Run,
    parallel: Parallel,
    resume: bool,
    workload: Workload | None = None,
) -> None:
    """Trains `objective` for `loop.steps` steps, or the remaining ones if `resume` finds a checkpoint.

    Every `log_every` steps and at each checkpoint it logs means over the steps since the last line and over the ranks:
        the scalars that `update` returns, grad_norm, learning_rate, seconds (per step) and what `Telemetry` measures.
        Step numbers in logs and checkpoints count finished steps. At the end the modules contain the EMA weights if
        `optimizer.ema` > 0.

    objective: losses and modules.
    optimizer, loop: settings, global.
    run: run folder.
    parallel: ranks and device.
    resume: continue from the latest checkpoint of the stage.
    workload: what a step works on, for the rates that are logged.

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
    start = 0
    if resume and (found := checkpoint.latest(run.folder, objective.name)) is not None:
        path, start = found
        on_all_ranks(lambda: _read(objective.name, path, start, loop.steps, state))
    writes = math.ceil((loop.steps - start) / (loop.checkpoint_every or loop.steps))

    def check_room() -> None:
        if run.writes:  # rank 0; all ranks write to the disk of its folder
            checkpoint.check_room(run.folder, objective.name, state.state(), writes=writes, keep=loop.keep)

    on_all_ranks(check_room)
    run.resume_at(objective.name, start)
    if start < loop.steps:
        _steps(objective, state, loop, run, parallel, start, workload or Workload())
    state.use_ema()


def _read(stage: str, path: Path, start: int, steps: int, state: Optimizer) -> None:
    if start > steps:
        raise UserError(
            f"{path}: lies past the {steps} steps of the stage: set {stage}.loop.steps to {start} or more, or remove it"
        )
    checkpoint.load(path, state.state())


def _steps(
    objective: Objective,
    state: Optimizer,
    loop: LoopConfig,
    run: Run,
    parallel: Parallel,
    start: int,
    workload: Workload,
) -> None:
    modules, groups = objective.modules().values(), objective.parameter_groups()
    telemetry = Telemetry(
        objective.name, state.state, modules, groups, workload, run, parallel, loop.steps - start
    )
    profiler = Profiler(loop.profile, run.folder / "profile" / objective.name, parallel)
    window = _Window()

    def log(done: int) -> dict[str, float]:
        nonlocal window
        values = window.means(parallel)
        values |= telemetry.measured(values["seconds"], window.steps)
        window = _Window()
        rate = state.schedule(loop.steps, done - 1)

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
        measuring = telemetry.step(profiled=profiler.records(step + 1))
        with parallel.at(f"step {step + 1} of {objective.name}", limit), measuring:
            window.add(objective.update(step, window.optimizer_step(telemetry.noting(state.optimizer_step))))
            return parallel.any(signals.received is not None)

    with deferred() as signals, profiler, progress(objective.name, total=loop.steps - start) as bar:
        for step in range(start, loop.steps):
            state.schedule(loop.steps, step)
            updates = state.updates
            try:
                with profiler.step(step + 1):
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
            window.since += profiler.finish(done)
            due = loop.checkpoint_every > 0 and done % loop.checkpoint_every == 0
            saved = stopped or due or done == loop.steps
            shown = log(done) if saved or done % loop.log_every == 0 else {}
            if saved:
                path = save(done)
            bar.advance(1, **shown)
            if stopped:
                raise Interrupted(objective.name, done, path)
        if parallel.any(signals.received is not None):  # arrived while the last checkpoint was written
            raise Interrupted(objective.name, loop.steps, path)


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

    def optimizer_step(self, optimizer_step: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`optimizer_step`, which also records the gradient norm."""

        def noted(loss: Tensor) -> Tensor:
            norm = optimizer_step(loss)
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
