"""The training loop of a stage: steps, logs, checkpoints, resumes exactly, and stops in order on a signal."""

import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from phys4d.engine import checkpoint
from phys4d.engine.config import Config
from phys4d.engine.errors import Interrupted, UserError
from phys4d.engine.optimizer import Optimizer, OptimizerConfig
from phys4d.engine.parallel import Parallel, together
from phys4d.engine.progress import progress
from phys4d.engine.telemetry import Run

__all__ = ["Interrupted", "LoopConfig", "Objective", "OptimizerConfig", "train"]


class Objective(Protocol):
    """What a stage minimises. Everything random in it must be a function of `step` and sample indices
    (`phys4d.engine.random`), since only parameters, optimizer and EMA are in a checkpoint.
    """

    name: str

    def modules(self) -> dict[str, nn.Module]:
        """Modules whose requires_grad parameters are trained and checkpointed, by name."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """[{"params": [...], "lr_scale": float}], together exactly the trained parameters."""

    def update(self, step: int, minimise: Callable[[Tensor], Tensor]) -> dict[str, Tensor | float]:
        """Does step `step` (from 0): computes its losses on this rank's share of the batch, calls `minimise`
        once per optimizer step (it returns the gradient norm), returns scalars to log, not read back to the
        host. Every rank returns the same names. A UserError must be raised on all ranks (`parallel.together`);
        raised before the step's first `minimise`, the steps before it are kept in a checkpoint.
        """


class LoopConfig(Config):
    """steps: how many. log_every: steps between log lines. checkpoint_every: steps between checkpoints, 0 for
    only one at the end. keep: how many checkpoints of the stage stay on the disk.
    """

    steps: int = Field(ge=1)
    log_every: int = Field(20, ge=1)
    checkpoint_every: int = Field(0, ge=0)
    keep: int = Field(2, ge=1)


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
    Raises Interrupted after SIGTERM or SIGINT, when the step is finished and a checkpoint written (a second
    signal acts at once); UserError when a gradient is not finite, the checkpoint does not fit, or the disk is full
    or has, at the start, no room for the checkpoints to come.
    """
    state = Optimizer(optimizer, objective.modules(), objective.parameter_groups())
    if parallel.mesh is not None:
        alone = [name for name, value in state.parameters.items() if not isinstance(value, DTensor)]
        if alone:  # its gradients would never be averaged over the ranks
            raise ValueError(f"{objective.name}: {alone[0]} is trained but was not given to Parallel.shard")
    start = 0
    if resume and (found := checkpoint.latest(run.folder, objective.name)) is not None:
        path, start = found
        if start > loop.steps:
            raise UserError(
                f"{path}: lies past the {loop.steps} steps of the stage: raise steps or start anew"
            )
        checkpoint.load(path, state.state())
    writes = math.ceil((loop.steps - start) / (loop.checkpoint_every or loop.steps))

    def check_room() -> None:
        if run.writes:  # all ranks write to the disk of rank 0's folder, and it is there
            checkpoint.check_room(run.folder, objective.name, state.state(), writes=writes, keep=loop.keep)

    together(check_room)
    run.resume_at(objective.name, start)
    if start < loop.steps:
        _steps(objective, state, loop, run, parallel, start)
    state.use_ema()


def _steps(
    objective: Objective, state: Optimizer, loop: LoopConfig, run: Run, parallel: Parallel, start: int
) -> None:
    window = _Window()

    def log(done: int) -> dict[str, float]:
        nonlocal window
        values = window.means(parallel)
        window = _Window()
        _finite(objective.name, done, values)
        rate = state.schedule(loop.steps, done - 1)
        together(lambda: run.log(objective.name, done, values | {"learning_rate": rate}))
        return {name: value for name, value in values.items() if name in ("loss", "reward")}

    def save(done: int) -> Path:
        path = checkpoint.save(run.folder, objective.name, done, state.state(), keep=loop.keep)
        together(run.clock.save)  # what a kill from here on loses begins here
        return path

    with _Signals() as signals, progress(objective.name, total=loop.steps - start) as bar:
        for step in range(start, loop.steps):
            state.schedule(loop.steps, step)
            updates = state.updates
            try:
                window.add(objective.update(step, window.minimise(state)))
            except UserError:
                if step > start and state.updates == updates:  # the steps before the fault are not lost
                    if window.steps:
                        log(step)
                    save(step)
                raise
            done = step + 1
            stopped = parallel.any(signals.received)
            due = loop.checkpoint_every > 0 and done % loop.checkpoint_every == 0
            saved = stopped or due or done == loop.steps
            shown = log(done) if saved or done % loop.log_every == 0 else {}
            if saved:
                path = save(done)
            bar.advance(1, **shown)
            if stopped:
                raise Interrupted(objective.name, done, path)
        if parallel.any(signals.received):  # it came while the last checkpoint was written
            raise Interrupted(objective.name, loop.steps, path)


def _finite(stage: str, step: int, values: dict[str, float]) -> None:
    norm = values.get("grad_norm", 0.0)
    if not math.isfinite(norm):
        raise UserError(
            f"{stage}: by step {step} the gradient norm is {norm}, training has diverged: lower "
            "optimizer.learning_rate and resume from the last checkpoint or start anew"
        )


class _Window:
    """Sums of what the steps since the last log line returned, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}
        self.steps, self.since = 0, time.perf_counter()

    def minimise(self, state: Optimizer) -> Callable[[Tensor], Tensor]:
        """`state.minimise`, with the gradient norm noted."""

        def noted(loss: Tensor) -> Tensor:
            norm = state.minimise(loss)
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


class _Signals:
    """Notes SIGTERM and SIGINT instead of dying; the second one finds the previous handlers again."""

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
