"""The training loop of a stage: steps, logs, checkpoints, exact resume, and an orderly stop on a signal."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from phys4d.engine import checkpoint
from phys4d.engine.background_save import BackgroundSave
from phys4d.engine.checkpoint import named_parameters
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import Interrupted, UserError, printable
from phys4d.engine.progress import Bar, progress
from phys4d.engine.run_folder.run import Run
from phys4d.engine.signals import deferred
from phys4d.engine.training.length import Length, LoopConfig, check_decay, in_steps
from phys4d.engine.training.optimizer import Loss, Optimizer, OptimizerConfig, OptimizerStep
from phys4d.engine.training.profiler import Profiler
from phys4d.engine.training.sample_order import SampleOrder
from phys4d.engine.training.telemetry import Telemetry, Workload
from phys4d.engine.training.window import Window

__all__ = ["Interrupted", "LoopConfig", "Loss", "Objective", "OptimizerConfig", "OptimizerStep", "train"]


class Objective(Protocol):
    """The objective of a stage.

    All its randomness must be a function of `step` and sample indices (`phys4d.engine.random`), since a checkpoint
    contains only parameters, optimizer state, EMA and the order of samples (`Workload.order`).
    """

    @property
    def name(self) -> str:
        """Name of the stage, and of the table with its settings in the run file; error messages use it."""

    def modules(self) -> dict[str, nn.Module]:
        """Modules by name; their parameters with requires_grad are trained and checkpointed."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """[{"params": [...], "lr_scale": float}, ...]; together exactly the trained parameters."""

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        """Computes one training step on this rank's part of the global batch.

        step: number of the step, from 0.
        optimizer_step: takes the losses of this rank's micro-batches, each a callable, and returns the gradient norm;
            to be called once for each optimizer step, by all ranks with equally many micro-batches. Each loss is a
            *share*: the sum over micro-batches and ranks is the loss that is minimised. The last one must evaluate
            every module with trained parameters, since gradients are summed over the ranks in its backward pass.

        Returns scalars to log, without a host sync; every rank returns the same names. They are shares, too: the sum
        over the ranks is logged. A UserError must be raised on all ranks (`on_all_ranks`); if it, or any error of a
        process that is alone, is raised before the step's first `optimizer_step`, the previous steps are saved in a
        checkpoint.
        """

    def samples(self) -> Sequence[str]:
        """Names of what the latest step was computed from on this rank, for a report of steps that were skipped, or
        whose loss leaps.
        """


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
    """Trains `objective` to the end of its length, from the latest checkpoint if `resume` finds one.

    Every `log_every` steps and at each checkpoint it logs means over the steps since the last line: the scalars that
        `update` returns, summed over the ranks, grad_norm, learning_rate, seconds (per step) and what `Telemetry`
        measures; steps that were skipped are left out, and counted as skipped_steps. A step whose loss leaps
        (`LoopConfig.spike`) is named with its samples. Step numbers in logs and checkpoints count finished steps. At
        the end the modules contain the EMA weights if `optimizer.ema` > 0.

    objective: losses and modules.
    optimizer, loop: settings, global.
    run: run folder; for a length in hours its clock must count for the stage (`Clock.stage`).
    parallel: ranks and device.
    resume: continue from the latest checkpoint of the stage.
    workload: what a step works on, for the rates that are logged.

    Raises Interrupted after SIGTERM, SIGINT, SIGHUP or SIGUSR1, when the step is finished and a checkpoint is written;
    Stopped immediately if SIGTERM, SIGINT or SIGHUP arrives again two seconds later or after more; UserError if the
    gradients of more than `loop.skip_limit` steps in a row are not finite, the checkpoint does not fit, or the disk is
    full or lacks, at the start, space for the coming checkpoints.
    """
    trained = {name: p for name, p in named_parameters(objective.modules()).items() if p.requires_grad}
    alone = [name for name, parameter in trained.items() if not parallel.strategy.holds(parameter)]
    if alone:
        raise ValueError(f"{objective.name}: {alone[0]} is trained but was not given to Parallel.shard")
    state = Optimizer(optimizer, objective.modules(), objective.parameter_groups(), parallel)
    workload = workload or Workload()
    order = workload.order
    check_decay(objective.name, loop, optimizer.decay_fraction)
    path, start = (checkpoint.latest(run.folder, objective.name) if resume else None) or (None, 0)
    if path is not None:
        found, position = path, order.state(0)
        on_all_ranks(lambda: checkpoint.load(found, state.state() | _named(position)))
        state.loaded()
        on_all_ranks(lambda: _go_on(order, start, position, found))
    loop = in_steps(loop, order.samples(start + 1) - order.samples(start), start, order.samples(start))
    length = Length(loop, objective.name, run.clock, parallel)
    on_all_ranks(lambda: length.begin(start, path))

    def check_room() -> None:
        if run.writes:  # rank 0; all ranks write to the disk of its folder
            writes = length.writes(start)
            checkpoint.check_room(run.folder, objective.name, state.state(), writes=writes, keep=loop.keep)

    on_all_ranks(check_room)
    run.resume_at(objective.name, start)
    if not length.over:
        _steps(objective, state, loop, length, run, parallel, start, workload)
    state.use_ema()


def _named(position: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"order.{name}": value for name, value in position.items()}


def _go_on(order: SampleOrder, step: int, position: dict[str, Tensor], path: Path) -> None:
    try:
        order.resume(step, position)
    except ValueError as error:
        raise UserError(f"{path}: does not fit: is of other clips than this run ({error})") from None


def _steps(
    objective: Objective, state: Optimizer, loop: LoopConfig, length: Length, run: Run, parallel: Parallel, start: int,
    workload: Workload,
) -> None:  # fmt: skip
    window, total = Window(loop.spike), length.work(start)
    modules, groups = objective.modules().values(), objective.parameter_groups()
    telemetry = Telemetry(objective.name, state, modules, groups, workload, run, parallel, length.horizon - start)
    profiler = Profiler(loop.profile, run.folder / "profile" / objective.name, parallel)

    def log(done: int) -> dict[str, float]:
        rate = state.schedule(length.horizon, done - 1)
        steps_since = window.steps
        values, bad, spike = window.close(parallel)
        values |= telemetry.measured(values["seconds"], steps_since)
        if window.in_a_row > loop.skip_limit:
            background.finish()  # its checkpoint is named below

        def write() -> None:
            for step, names in bad:
                run.note(objective.name, step, skipped_step="gradient not finite", samples=" ".join(names))
            if spike is not None and parallel.rank == 0:
                print(printable(f"{objective.name}: {spike}, computed from {spike.by_rank}"), file=sys.stderr)
                figures = {"loss_spike": spike.loss, "loss_usual": spike.usual}
                run.note(objective.name, spike.step, **figures, samples=spike.by_rank)
            if parallel.rank == 0 and window.in_a_row > loop.skip_limit:
                raise _diverged(objective.name, done, window, run.folder, start)
            run.log(objective.name, done, values | {"learning_rate": rate})

        on_all_ranks(write)
        return {name: value for name, value in values.items() if name in ("loss", "reward")}

    background = BackgroundSave(
        run.folder, objective.name, keep=loop.keep, keep_every=loop.keep_every, group=parallel.saving
    )

    def save(done: int, *, wait: bool) -> Path:
        with parallel.at(f"saving step {done} of {objective.name}"):
            on_all_ranks(run.sync)
            # The clock last: a later kill loses only the time from here on.
            whole = state.state() | _named(workload.order.state(done))
            path = background.start(done, whole, then=lambda: on_all_ranks(run.clock.save))
            if wait or not loop.save_in_background:
                background.finish()
        return path

    def update(step: int) -> bool:
        """One step; whether a rank has received a signal."""
        limit = parallel.timeouts.step if step > start else None  # kernels are compiled in the first
        here = parallel.at(f"step {step + 1} of {objective.name}", limit)
        with here, telemetry.step(step, profiled=profiler.records(step + 1)), profiler.step(step + 1):
            optimizer_step = window.noting(telemetry.noting(state.optimizer_step))
            window.add(step + 1, objective.update(step, optimizer_step), objective.samples())
            length.passed(step + 1)
            if not parallel.any(signals.received is not None or background.failed):
                return False
            if parallel.any(background.failed):
                background.finish()  # raises why
            return parallel.any(signals.received is not None)

    def steps(bar: Bar) -> None:
        overdue = False  # a checkpoint is due, but the latest steps were skipped
        for step in length.steps(start):
            state.schedule(length.horizon, step)
            updates = state.updates
            try:
                stopped = update(step)
            except Exception as error:
                # Any error of one process; of several ranks only those that all of them raise.
                if together(error) and step > start and state.updates == updates:  # no update: save the previous steps
                    if window.steps:
                        log(step)
                    save(step, wait=True)
                raise
            done = step + 1
            window.without(profiler.finish(done))
            due = overdue or (loop.checkpoint_every > 0 and done % loop.checkpoint_every == 0)
            last = stopped or length.over
            shown = log(done) if last or due or done % loop.log_every == 0 else {}
            overdue = due and window.in_a_row > 0  # weights that led to such gradients may be bad themselves
            if last or (due and not overdue):
                path = save(done, wait=last)
            bar.advance(length.advance(total[0]), **length.numbers(done), **shown)
            if stopped:
                raise Interrupted(objective.name, done, path)
        if parallel.any(signals.received is not None):  # arrived while the last checkpoint was written
            raise Interrupted(objective.name, done, path)

    def together(error: BaseException) -> bool:
        """Whether every rank has raised, so that all can go on with each other."""
        return isinstance(error, UserError) or parallel.world_size == 1

    with deferred() as signals, profiler, progress(objective.name, *total) as bar:
        try:
            steps(bar)
        except BaseException as error:
            if together(error):
                background.finish()  # what was begun is worth keeping
            raise


def _diverged(stage: str, step: int, window: Window, folder: Path, start: int) -> UserError:
    """The error that ends a stage; start: the step at which this session began."""
    rows = "" if window.in_a_row == 1 else f", as in {window.in_a_row} steps in a row"
    what = f"{stage}: by step {step} the gradient norm is {window.latest_norm}{rows}, training has diverged"
    lower = f"lower {stage}.optimizer.learning_rate"
    found = checkpoint.latest(folder, stage)
    if found is None:
        return UserError(f"{what}: {lower}, then --resume, which begins the stage again")
    if found[1] == start:  # resumed from this checkpoint, and no later step was finite
        return UserError(f"{what}: {lower}, or remove {found[0]}, which may have diverged too, then --resume")
    return UserError(f"{what}: {lower}, then --resume, which goes on from {found[0].name}")
