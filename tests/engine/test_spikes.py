"""A loss that leaps is named with its samples, ordinary noise is not, and weights do not depend on it."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig, train
from phys4d.engine.training.spikes import COURSE, FEWEST, Course
from tests.engine.one_weight import OneWeight

STEPS, PLANTED = 60, 47
NOISES: dict[str, Callable[[random.Random], float]] = {
    "a tenth": lambda draw: draw.gauss(1.0, 0.1),
    "a factor of two": lambda draw: math.exp(draw.gauss(0.0, 0.7)),
    "a factor of e": lambda draw: math.exp(draw.gauss(0.0, 1.0)),
    "skewed": lambda draw: draw.gammavariate(2.0, 0.5),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("falls", [0.0, 0.02], ids=["level", "falling"])
def test_ordinary_noise_over_200_steps_is_no_spike(noise: str, falls: float) -> None:
    for seed in range(20):
        draw, course = random.Random(seed), Course(LoopConfig(steps=1).spike)
        spikes = [course.judge(step, NOISES[noise](draw) * math.exp(-falls * step)) for step in range(200)]
        assert not any(spikes), (seed, [spike for spike in spikes if spike])


def test_a_leap_beyond_the_noise_is_one_and_does_not_change_what_is_usual() -> None:
    draw, course = random.Random(0), Course(8.0)
    losses = [draw.gauss(1.0, 0.1) for _ in range(100)]
    losses[50:53] = [3.0, 2.9, 1.3]
    found = [spike for step, loss in enumerate(losses) if (spike := course.judge(step, loss)) is not None]
    assert [(spike.step, spike.loss) for spike in found] == [(50, 3.0), (51, 2.9)]
    assert [spike.usual for spike in found] == pytest.approx([1.0, 1.0], abs=0.05)


def test_what_the_threshold_means() -> None:
    """Losses e^-1, 1 and e^1 in equal parts: MAD 1, so that 8 deviations are e^(8 x 1.4826)."""
    for factor, expected in ((0.999, False), (1.001, True)):
        course = Course(8.0)
        for step in range(FEWEST + 1):
            assert course.judge(step, math.exp(step % 3 - 1)) is None
        assert (course.judge(FEWEST + 1, math.exp(8 * 1.4826 * factor)) is not None) is expected


def test_an_even_course_needs_half_as_much_again_and_a_short_one_has_no_spikes() -> None:
    course = Course(8.0)
    assert [course.judge(step, 1.0 if step < FEWEST - 1 else 100.0) for step in range(FEWEST)] == [None] * FEWEST
    course = Course(8.0)
    for step in range(COURSE):
        course.judge(step, 2.0)
    assert course.judge(64, 2.99) is None and course.judge(65, 3.01) is not None
    assert [course.judge(66, loss) for loss in (0.0, -5.0, math.nan, math.inf)] == [None] * 4
    off = Course(0.0)
    assert not any(off.judge(step, 1.0 if step < 50 else 1e9) for step in range(60))


class Noisy(OneWeight):
    """One weight; losses with noise, and an outlier planted in one step."""

    name = "noisy"

    def __init__(self) -> None:
        super().__init__()
        self.draw = random.Random(1)

    def update(self, step: int, optimizer_step: Any) -> dict[str, torch.Tensor | float]:
        scale, self.step = self.draw.gauss(1.0, 0.1) * (30.0 if step == PLANTED else 1.0), step
        optimizer_step([lambda: self.net.weight.sum() * scale])
        return {"loss": torch.tensor(scale)}

    def samples(self) -> list[str]:
        return [f"clip{self.step}", "another"]


def trained(folder: Path, **loop: Any) -> torch.Tensor:
    objective, config = Noisy(), LoopConfig(steps=STEPS, log_every=10, **loop)
    optimizer, alone = OptimizerConfig(learning_rate=1e-3), Parallel.alone()
    with Run.create(folder, config, resume=False) as run:
        train(objective, optimizer=optimizer, loop=config, run=run, parallel=alone, resume=False)
    return objective.net.weight.detach()


def test_a_planted_batch_is_named_once_and_weights_do_not_depend_on_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten steps are logged together: the mean of their losses alone would not say which it was."""
    weight = trained(tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "the loss of" in line]
    assert len(said) == 1 and said[0].startswith(f"noisy: the loss of step {PLANTED + 1} is ")
    assert said[0].endswith(f", computed from rank 0: clip{PLANTED} another")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (note,) = [line for line in lines if "loss_spike" in line]
    assert (note["stage"], note["step"]) == ("noisy", PLANTED + 1)
    assert note["samples"] == f"rank 0: clip{PLANTED} another"
    assert 20 < note["loss_spike"] < 40 and 0.9 < note["loss_usual"] < 1.1
    assert torch.equal(trained(tmp_path / "off", spike=0), weight)
    assert "loss_spike" not in (tmp_path / "off" / "metrics.jsonl").read_text()
