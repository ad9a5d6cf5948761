"""Lengths in steps, samples and hours: exactly one of them, rounded up, and agreed upon by all ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.engine import checkpoint
from phys4d.engine.config import Config, build
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder import clock
from phys4d.engine.run_folder.clock import Clock
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.length import Length, LoopConfig, check_decay, in_steps, shown
from phys4d.engine.training.loop import OptimizerConfig, train
from tests.engine.one_weight import OneWeight

ALONE = Parallel(0, 1, torch.device("cpu"), None)
STEP = 10.0  # seconds


class Stage(Config):
    loop: LoopConfig


@pytest.mark.parametrize("loop", [{}, {"steps": 3, "samples": 3}, {"steps": 3, "hours": 1.0}, {"log_every": 1}])
def test_exactly_one_length_is_given(loop: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^file: loop: name one of steps, samples and hours, got \{"):
        build(Stage, {"loop": loop}, "file")


@pytest.mark.parametrize(
    ("loop", "samples", "steps", "words"),
    [
        ({"steps": 3}, 8, 3, "3 steps of 8 clips"),
        ({"steps": 1}, 1, 1, "1 step of 1 clip"),
        ({"samples": 16}, 8, 2, "2 steps of 8 clips (16 samples)"),
        ({"samples": 17}, 8, 3, "3 steps of 8 clips (17 samples)"),
        ({"samples": 1}, 8, 1, "1 step of 8 clips (1 samples)"),
        ({"hours": 1.5}, 8, None, "1.5 hours of steps of 8 clips"),
    ],
)
def test_samples_are_rounded_up_to_steps(loop: dict[str, Any], samples: int, steps: int | None, words: str) -> None:
    config = LoopConfig(**loop)
    assert in_steps(config, samples).steps == steps and shown(config, samples) == words


def test_a_rate_that_decays_needs_a_known_number_of_steps() -> None:
    for loop, decay in ((LoopConfig(hours=1.0), 0.0), (LoopConfig(samples=4), 0.5), (LoopConfig(steps=4), 0.5)):
        check_decay("a", loop, decay)
    with pytest.raises(UserError, match=r"^a\.optimizer\.decay_fraction: 0\.5 with a\.loop\.hours: "):
        check_decay("a", LoopConfig(hours=1.0), 0.5)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the run's clock; the test, and every step of `Timed`, advances it."""
    time = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: time[0])
    return time


class Ranks(Parallel):
    """Rank 1 of two, of which the other one says `others`."""

    def __init__(self) -> None:
        super().__init__(1, 2, torch.device("cpu"), None)
        self.others, self.asked = False, list[bool]()

    def any(self, flag: bool) -> bool:
        self.asked.append(flag)
        return flag or self.others


def test_the_ranks_agree_on_the_end(tmp_path: Path, now: list[float]) -> None:
    """A rank that knows this session alone ends with the one that knows the time of all."""
    ranks, own = Ranks(), Clock(tmp_path / "clock.json", since=100.0, writes=False)
    with own.stage("a"):
        length = Length(LoopConfig(hours=1.0), "a", own, ranks)
        now[0] += 3599
        length.passed(1)
        assert not length.over and ranks.asked == [False]
        ranks.others = True
        length.passed(2)
        assert length.over and ranks.asked == [False, False]
        ranks.others = False
        now[0] += 1
        length.passed(2)
        assert length.over and ranks.asked[-1]


class Timed(OneWeight):
    """An objective on one weight, each step of which takes ten seconds of the patched clock."""

    name = "timed"

    def __init__(self, now: list[float]) -> None:
        super().__init__()
        self.now = now

    def update(self, step: int, optimizer_step: Any) -> dict[str, torch.Tensor | float]:
        if self.now[0] < 0:
            raise RuntimeError("killed")
        self.now[0] += STEP
        optimizer_step([lambda: self.net.weight.pow(2).sum()])
        return {}

    def samples(self) -> tuple[str, ...]:
        return ()


def timed(folder: Path, now: list[float], loop: LoopConfig, *, resume: bool) -> torch.Tensor:
    objective = Timed(now)
    with Run.create(folder, loop, resume=resume) as run, run.clock.stage("timed"):
        train(
            objective, optimizer=OptimizerConfig(learning_rate=0.1), loop=loop, run=run, parallel=ALONE, resume=resume
        )
    return objective.net.weight.detach()


def last(folder: Path) -> int:
    found = checkpoint.latest(folder, "timed")
    return 0 if found is None else found[1]


def test_hours_count_over_sessions_and_give_the_weights_of_as_many_steps(tmp_path: Path, now: list[float]) -> None:
    folder, hours = tmp_path / "run", 35 / 3600
    weights = timed(folder, now, LoopConfig(hours=hours), resume=False)
    assert last(folder) == 4  # the first step that ends after 35 seconds
    assert torch.equal(weights, timed(tmp_path / "steps", now, LoopConfig(steps=4), resume=False))
    assert torch.equal(timed(folder, now, LoopConfig(hours=hours), resume=True), weights) and last(folder) == 4
    longer = timed(folder, now, LoopConfig(hours=2 * hours), resume=True)
    assert last(folder) == 7
    assert torch.equal(longer, timed(tmp_path / "more", now, LoopConfig(steps=7), resume=False))


def test_hours_that_are_used_up_without_a_checkpoint_give_no_model(tmp_path: Path, now: list[float]) -> None:
    with Run.create(tmp_path, LoopConfig(hours=1.0), resume=False) as run, run.clock.stage("timed"):
        now[0] += 3600  # a session that was killed before its first checkpoint
    line = r"^timed: its 1 hours are used up, and it has no checkpoint: raise timed\.loop\.hours, or lower timed\."
    with pytest.raises(UserError, match=line):
        timed(tmp_path, now, LoopConfig(hours=1.0), resume=True)


def test_hours_without_a_clock_of_the_stage_are_our_fault(tmp_path: Path) -> None:
    run_clock = Clock(tmp_path / "clock.json", since=0.0)
    with pytest.raises(ValueError, match=r"needs run\.clock\.stage\('a'\) around train"):
        Length(LoopConfig(hours=1.0), "a", run_clock, ALONE)
    with pytest.raises(ValueError, match=r"needs the clips of a step"):
        Length(LoopConfig(samples=1), "a", run_clock, ALONE)


def test_work_and_checkpoints_that_are_left(tmp_path: Path, now: list[float]) -> None:
    own = Clock(tmp_path / "clock.json", since=100.0)
    steps = Length(LoopConfig(steps=10, checkpoint_every=4), "a", own, ALONE)
    assert steps.work(3) == (7, "steps") and [steps.writes(start) for start in (0, 4, 9, 10)] == [3, 2, 1, 0]
    assert steps.advance(7) == 1 and steps.numbers(5) == {}
    with own.stage("a"):
        hours = Length(LoopConfig(hours=1.0, keep=3), "a", own, ALONE)
        assert hours.work(0) == (3600, "s") and hours.writes(0) == 4 and hours.numbers(5) == {"step": 5}
        shown_seconds = []
        for seconds in (0.4, 0.4, 0.4, 90.0, 9999.0):
            now[0] += seconds
            shown_seconds.append(hours.advance(3600))
        assert shown_seconds == [0, 0, 1, 90, 3509]  # together 3600


def test_a_checkpoint_past_the_samples_says_so(tmp_path: Path) -> None:
    length = Length(in_steps(LoopConfig(samples=7), 2), "a", Clock(tmp_path / "clock.json", since=0.0), ALONE)
    line = r"lies past the 4 steps \(7 samples\) of the stage: raise a\.loop\.samples, or remove it$"
    with pytest.raises(UserError, match=line):
        length.begin(5, tmp_path / "checkpoint-a-5")
