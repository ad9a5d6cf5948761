"""The training loop of a stage: steps, logs, checkpoints, resumes exactly, and stops in order on a signal."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from phys4d.engine import checkpoint
from phys4d.engine.config import Config
from phys4d.engine.errors import Interrupted, UserError
from phys4d.engine.optimizer import Optimizer, OptimizerConfig
from phys4d.engine.parallel import Parallel, on_all_ranks
from phys4d.engine.progress import progress
from phys4d.engine.resume import SAME_WEIGHTS, OnResume
from phys4d.engine.signals import deferred
from phys4d.engine.telemetry import Run

__all__ = ["Interrupted", "LoopConfig", "Objective", "OptimizerConfig", "train"]


class Objective(Protocol):
    """What a stage minimises. Everything random in it must be a function of `step` and sample indices
    (`phys4d.engine.random`), since only parameters, optimizer and EMA are in a checkpoint.
    """

    name: str
    """Also that of the table of its settings in the run file, in which messages name keys."""

    def modules(self) -> dict[str, nn.Module]:
        """Modules whose requires_grad parameters are trained and checkpointed, by name."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """[{"params": [...], "lr_scale": float}], together exactly the trained parameters."""

    def update(self, step: int, optimizer_step: Callable[[Tensor], Tensor]) -> dict[str, Tensor | float]:
        """Does step `step` (from 0): computes its losses on this rank's share of the batch, calls `optimizer_step`
        once per optimizer step (it returns the gradient norm), returns scalars to log, not read back to the
        host. Every rank returns the same names. A UserError must be raised on all ranks (`parallel.on_all_ranks`);
        raised before the step's first `optimizer_step`, the steps before it are kept in a checkpoint.
        """


_LENGTH = OnResume("the weights are those of a run started with it where optimizer.decay_fraction is 0")


class LoopConfig(Config):
    """steps: how many. log_every: steps between log lines. checkpoint_every: steps between checkpoints, 0 for
    only one at the end. keep: how many checkpoints of the stage stay on the disk.
    """

    steps: Annotated[int, _LENGTH] = Field(ge=1)
    log_every: Annotated[int, SAME_WEIGHTS] = Field(20, ge=1)
    checkpoint_every: Annotated[int, SAME_WEIGHTS] = Field(0, ge=0)
    keep: Annotated[int, SAME_WEIGHTS] = Field(2, ge=1)


def train(
    objective: Objective,
    *,
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    run: Run,
    parallel: Parallel,
    resume: bool,
) -> None:
    """Trains `objective` for `loop.steps` steps, or what is left of them when `resume` finds a checkpoint.

    Logged every `log_every` steps and at each checkpoint, as means over the steps since the last line and
    over ranks: what `update` returns, grad_norm, learning_rate, seconds (per step). Step numbers in logs and
    checkpoints count finished steps. At the end the modules hold the EMA weights where `optimizer.ema` > 0.
    Raises Interrupted after SIGTERM, SIGINT, SIGHUP or SIGUSR1, when the step is finished and a checkpoint written;
    Stopped at once where SIGTERM, SIGINT or SIGHUP comes again two seconds later or after more; UserError when a
    gradient is not finite, the checkpoint does not fit, or the disk is full or has, at the start, no room for the
    checkpoints to come.
    """
    state = Optimizer(optimizer, objective.modules(), objective.parameter_groups())
    if parallel.mesh is not None:
        alone = [name for name, value in state.parameters.items() if not isinstance(value, DTensor)]
        if alone:  # its gradients would never be averaged over the ranks
            raise ValueError(f"{objective.name}: {alone[0]} is trained but was not given to Parallel.shard")
    start = 0
    if resume and (found := checkpoint.latest(run.folder, objective.name)) is not None:
        path, start = found
        on_all_ranks(lambda: _read(objective.name, path, start, loop.steps, state))
    writes = math.ceil((loop.steps - start) / (loop.checkpoint_every or loop.steps))

    def check_room() -> None:
        if run.writes:  # all ranks write to the disk of rank 0's folder, and it is there
            checkpoint.check_room(run.folder, objective.name, state.state(), writes=writes, keep=loop.keep)

    on_all_ranks(check_room)
    run.resume_at(objective.name, start)
    if start < loop.steps:
        _steps(objective, state, loop, run, parallel, start)
    state.use_ema()


def _read(stage: str, path: Path, start: int, steps: int, state: Optimizer) -> None:
    if start > steps:
        raise UserError(
            f"{path}: lies past the {steps} steps of the stage: set {stage}.loop.steps to {start} or more, or remove it"
        )
    checkpoint.load(path, state.state())


def _steps(
    objective: Objective, state: Optimizer, loop: LoopConfig, run: Run, parallel: Parallel, start: int
) -> None:
    window = _Window()

    def log(done: int) -> dict[str, float]:
        nonlocal window
        values = window.means(parallel)
        window = _Window()
        rate = state.schedule(loop.steps, done - 1)

        def write() -> None:
            if parallel.rank == 0:
                _finite(objective.name, done, values, run.folder, start)
                run.log(objective.name, done, values | {"learning_rate": rate})

        on_all_ranks(write)
        return {name: value for name, value in values.items() if name in ("loss", "reward")}

    def save(done: int) -> Path:
        path = checkpoint.save(run.folder, objective.name, done, state.state(), keep=loop.keep)
        on_all_ranks(run.clock.save)  # what a kill from here on loses begins here
        return path

    with deferred() as signals, progress(objective.name, total=loop.steps - start) as bar:
        for step in range(start, loop.steps):
            state.schedule(loop.steps, step)
            updates = state.updates
            try:
                window.add(objective.update(step, window.optimizer_step(state)))
            except UserError:
                if step > start and state.updates == updates:  # the steps before the fault are not lost
                    if window.steps:
                        log(step)
                    save(step)
                raise
            done = step + 1
            stopped = parallel.any(signals.received is not None)
            due = loop.checkpoint_every > 0 and done % loop.checkpoint_every == 0
            saved = stopped or due or done == loop.steps
            shown = log(done) if saved or done % loop.log_every == 0 else {}
            if saved:
                path = save(done)
            bar.advance(1, **shown)
            if stopped:
                raise Interrupted(objective.name, done, path)
        if parallel.any(signals.received is not None):  # it came while the last checkpoint was written
            raise Interrupted(objective.name, loop.steps, path)


def _finite(stage: str, step: int, values: dict[str, float], folder: Path, start: int) -> None:
    """UserError where the mean gradient norm is not finite; start: the step at which this session began."""
    norm = values.get("grad_norm", 0.0)
    if math.isfinite(norm):
        return
    what = f"{stage}: by step {step} the gradient norm is {norm}, training has diverged"
    lower = f"lower {stage}.optimizer.learning_rate"
    found = checkpoint.latest(folder, stage)
    if found is None:
        raise UserError(f"{what}: {lower}, then --resume, which begins the stage again")
    if found[1] == start:  # it was resumed from a checkpoint, and nothing after it was finite
        raise UserError(f"{what}: {lower}, or remove {found[0]}, which may have diverged too, then --resume")
    raise UserError(f"{what}: {lower}, then --resume, which goes on from {found[0].name}")


class _Window:
    """Sums of what the steps since the last log line returned, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}
        self.steps, self.since = 0, time.perf_counter()

    def optimizer_step(self, state: Optimizer) -> Callable[[Tensor], Tensor]:
        """`state.optimizer_step`, with the gradient norm noted."""

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
        """Means over the window and the ranks (the host sync), and seconds per step."""
        means = parallel.mean({name: total / self.counts[name] for name, total in self.sums.items()})
        return means | {"seconds": (time.perf_counter() - self.since) / self.steps}
