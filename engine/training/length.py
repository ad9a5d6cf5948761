"""Length of a stage, in steps, samples or hours, and the intervals of its logs and checkpoints."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.resume import SAME_WEIGHTS, OnResume
from phys4d.engine.run_folder.clock import Clock
from phys4d.engine.training.profiler import ProfileConfig

LENGTHS = ("steps", "samples", "hours")
_LENGTH = OnResume("the weights are those of a run started with it where optimizer.decay_fraction is 0")
_HOURS = OnResume("the stage ends after another run time")


class LoopConfig(Config):
    """Length, logging and checkpoints of a stage; all values are global, in steps of the global batch.

    The length is given by exactly one of steps, samples and hours.

    steps: number of training steps.
    samples: clips over all steps and ranks, rounded up to whole steps.
    hours: run time of the stage over all sessions, by the clock of the run, loading and checkpoints included. The ranks
        end after the same step. The number of steps depends on the machine, so two runs are not equal, and the
        learning rate cannot decay (optimizer.decay_fraction).
    log_every: steps between log lines.
    checkpoint_every: steps between checkpoints, 0 for one checkpoint at the end. What ends a process without warning
        costs at most so many steps.
    keep: number of checkpoints of the stage that remain on the disk.
    profile: steps that are recorded by torch's profiler; none: no step.
    keep_every: checkpoints at multiples of so many steps remain, too; 0: none of them.
    save_in_background: writes checkpoints while training goes on, from a copy of the trained state in the host's
        memory; what ends a process while one is written costs the steps since the one before.
    skip_limit: steps in a row whose gradient is not finite and which are therefore skipped, weights and moments
        unchanged; one more ends the stage. Their samples are named in metrics.jsonl.
    spike: how far a step's loss lies above its course when it is reported as a spike, with its samples: in standard
        deviations of the logarithm of the latest losses, estimated from their median absolute deviation
        (`training.spikes`); 0: no report.
    """

    steps: Annotated[int | None, _LENGTH] = Field(None, ge=1)
    samples: Annotated[int | None, _LENGTH] = Field(None, ge=1)
    hours: Annotated[float | None, _HOURS] = Field(None, gt=0, allow_inf_nan=False)
    log_every: Annotated[int, SAME_WEIGHTS] = Field(20, ge=1)
    checkpoint_every: Annotated[int, SAME_WEIGHTS] = Field(200, ge=0)
    keep: Annotated[int, SAME_WEIGHTS] = Field(2, ge=1)
    profile: Annotated[ProfileConfig | None, SAME_WEIGHTS] = None
    keep_every: Annotated[int, SAME_WEIGHTS] = Field(0, ge=0)
    save_in_background: Annotated[bool, SAME_WEIGHTS] = True
    skip_limit: Annotated[int, SAME_WEIGHTS] = Field(3, ge=0)
    spike: Annotated[float, SAME_WEIGHTS] = Field(8.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if sum(getattr(self, name) is not None for name in LENGTHS) != 1:
            raise ValueError("name one of steps, samples and hours")
        return self

    @model_validator(mode="after")
    def _profiled_steps_exist(self) -> Self:
        if self.profile is not None and self.steps is not None and self.profile.last > self.steps:
            raise ValueError(f"profile: steps {self.profile.start} to {self.profile.last} of {self.steps}: lower start")
        return self


def in_steps(loop: LoopConfig, samples: int, start: int = 0, seen: int = 0) -> LoopConfig:
    """The settings with `steps` set, also where the length is given in samples; unchanged for hours.

    loop: settings.
    samples: clips of one step over all ranks.
    start, seen: steps and clips of earlier sessions, whose steps may have had another size.
    """
    if loop.samples is None:
        return loop
    return loop.model_copy(update={"steps": start + math.ceil(max(0, loop.samples - seen) / samples)})


def shown(loop: LoopConfig, samples: int) -> str:
    """The length in words, such as "125 steps of 8 clips (1000 samples)"; arguments as of `in_steps`."""
    clips = f"{samples} clip{'s' if samples != 1 else ''}"
    if loop.hours is not None:
        return f"{loop.hours:g} hours of steps of {clips}"
    steps = in_steps(loop, samples).steps
    given = f" ({loop.samples} samples)" if loop.samples is not None else ""
    return f"{steps} step{'s' if steps != 1 else ''} of {clips}{given}"


def check_decay(stage: str, loop: LoopConfig, decay_fraction: float) -> None:
    """Raises UserError for a learning rate that decays over a length in hours: its last steps are not known."""
    if loop.hours is not None and decay_fraction > 0:
        raise UserError(
            f"{stage}.optimizer.decay_fraction: {decay_fraction} with {stage}.loop.hours: a rate that decays needs a "
            "length in steps or samples: set it to 0, or give such a length"
        )


class Length:
    """Decides after which step a stage ends, on all ranks alike.

    loop: settings, of which `steps` or `hours` is set (`in_steps`).
    stage: name of the stage.
    clock: of the run; for hours it must count for the stage (`Clock.stage`), else ValueError.
    parallel: ranks.

    over: whether the stage has ended, as of the last call of `passed`.
    horizon: number of steps for the learning rate's schedule; without end for hours.
    """

    def __init__(self, loop: LoopConfig, stage: str, clock: Clock, parallel: Parallel) -> None:
        if loop.steps is None and loop.hours is None:
            raise ValueError(f"{stage}: a length in samples needs the clips of a step: in_steps(loop, samples)")
        if loop.hours is not None and clock.current != stage:
            raise ValueError(f"{stage}: a length in hours needs run.clock.stage({stage!r}) around train")
        self._loop, self._stage, self._clock, self._parallel = loop, stage, clock, parallel
        self.horizon = sys.maxsize if loop.steps is None else loop.steps
        self.over = False
        self._shown = 0

    def passed(self, done: int) -> None:
        """Notes that `done` steps are finished; for hours a collective on the host."""
        if self._loop.hours is None:
            self.over = done >= self.horizon
        else:
            self.over = self._parallel.any(self._left() <= 0)

    def begin(self, start: int, path: Path | None) -> None:
        """Begins at step `start`, that of the checkpoint in `path`, if there is one; arguments equal on all ranks.

        Raises UserError if the checkpoint lies past the end, or if all the hours are used up without a checkpoint.
        """
        where, loop = f"{self._stage}.loop", self._loop
        if start > self.horizon:
            length, raised = f"{loop.steps} steps", f"set {where}.steps to {start} or more"
            if loop.samples is not None:
                length, raised = f"{length} ({loop.samples} samples)", f"raise {where}.samples"
            raise UserError(f"{path}: lies past the {length} of the stage: {raised}, or remove it")
        self.passed(start)
        if self.over and not start:
            raise UserError(
                f"{self._stage}: its {loop.hours:g} hours are used up, and it has no checkpoint: raise {where}.hours, "
                f"or lower {where}.checkpoint_every so that a session that is killed leaves one"
            )

    def steps(self, start: int) -> Iterator[int]:
        """The numbers of the steps from `start` on, until `passed` finds the end."""
        step = start
        while not self.over:
            yield step
            step += 1

    def writes(self, start: int) -> int:
        """Number of checkpoints still to be written; for hours, of those that are on the disk together."""
        if self._loop.steps is None:
            return self._loop.keep + 1
        return math.ceil((self._loop.steps - start) / (self._loop.checkpoint_every or self._loop.steps))

    def work(self, start: int) -> tuple[int, str]:
        """Amount and unit of the remaining work, for a progress bar: steps, or seconds."""
        if self._loop.steps is not None:
            return self._loop.steps - start, "steps"
        return max(1, math.ceil(self._left())), "s"

    def advance(self, start: int) -> int:
        """Amount of work since the last call, in the unit of `work`; start: amount at the beginning."""
        if self._loop.steps is not None:
            return 1
        done = min(start, start - math.ceil(self._left()))
        now, self._shown = done - self._shown, done
        return now

    def numbers(self, done: int) -> dict[str, int]:
        """The number of finished steps, for a progress bar that shows seconds."""
        return {} if self._loop.hours is None else {"step": done}

    def _left(self) -> float:
        """Seconds that are left; on ranks other than 0, which know this session alone, possibly more."""
        assert self._loop.hours is not None
        return 3600 * self._loop.hours - self._clock.stages.get(self._stage, 0.0)
