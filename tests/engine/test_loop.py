"""The loop: a killed and resumed run ends bit-identical, signals stop it in order, divergence is reported."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from phys4d.engine import checkpoint, signals
from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import Interrupted, Stopped, UserError
from phys4d.engine.run_folder.run import Run
from phys4d.engine.signals import SIGNALS
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig, train
from tests.engine.one_weight import OneWeight
from tests.engine.reproducible import reproducible

ALONE = Parallel.alone()


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged lines without what depends on the clock."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [reproducible(entry) for entry in entries]


def same_files(first: Path, second: Path) -> bool:
    return all((second / path.name).read_bytes() == path.read_bytes() for path in first.glob("*.distcp"))


@pytest.fixture(scope="module")
def uninterrupted(
    toy: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("loop") / "whole"
    return folder, toy.weights(toy.run_toy(folder, ALONE, resume=False))


def test_a_killed_run_ends_bit_identical_after_a_resume(
    toy: ModuleType,
    toy_program: Path,
    uninterrupted: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """SIGKILL in step 5 of 6, one step after the checkpoint of step 3 was followed by a logged step 4."""
    folder, expected = uninterrupted
    command = [sys.executable, str(toy_program), str(tmp_path / "run")]
    killed = subprocess.run([*command, "--kill-at", "4"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [entry["step"] for entry in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    got = toy.weights(toy.run_toy(tmp_path / "run", ALONE, resume=True))
    assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in expected)
    assert same_files(folder / "checkpoint-toy-6", tmp_path / "run" / "checkpoint-toy-6")
    assert metrics(tmp_path / "run") == metrics(folder)


def test_a_finished_stage_only_gives_its_weights(
    toy: ModuleType, uninterrupted: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    folder, expected = uninterrupted
    before = (folder / "metrics.jsonl").read_text()
    again = toy.weights(toy.run_toy(folder, ALONE, resume=True))
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert (folder / "metrics.jsonl").read_text() == before


def test_the_last_checkpoint_gives_another_program_the_final_weights(
    toy: ModuleType, uninterrupted: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    folder, expected = uninterrupted
    found = checkpoint.latest(folder, "toy")
    assert found is not None and found[1] == 6
    fresh = toy.Toy(ALONE)
    checkpoint.load_weights(found[0], fresh.modules())
    assert all(torch.equal(value, expected[name]) for name, value in toy.weights(fresh).items())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_finishes_the_step_and_the_resumed_run_is_bit_identical(
    toy: ModuleType,
    uninterrupted: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    handlers = [signal.getsignal(each) for each in SIGNALS]

    def stop(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), number)

    with pytest.raises(
        Interrupted, match="stopped by a signal in stage toy after step 2: checkpoint"
    ) as caught:
        toy.run_toy(tmp_path / "run", ALONE, resume=False, stop=stop)
    assert (caught.value.step, caught.value.path) == (2, tmp_path / "run" / "checkpoint-toy-2")
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    got = toy.weights(toy.run_toy(tmp_path / "run", ALONE, resume=True))
    assert all(torch.equal(got[name], value) for name, value in uninterrupted[1].items())


def test_signals_that_come_several_times_are_one_request(toy: ModuleType, tmp_path: Path) -> None:
    """Slurm signals every process, torchrun forwards: two and more within milliseconds, and of several kinds."""

    def stop(step: int) -> None:
        if step == 1:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="after step 2: checkpoint .*checkpoint-toy-2: --resume goes on from it"):
        toy.run_toy(tmp_path / "run", ALONE, resume=False, stop=stop)
    assert checkpoint.latest(tmp_path / "run", "toy") == (tmp_path / "run" / "checkpoint-toy-2", 2)


def test_a_second_signal_that_is_meant_stops_within_the_step(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + signals.GRACE)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="SIGINT"):
        toy.run_toy(tmp_path / "run", ALONE, resume=False, stop=stop)
    assert checkpoint.latest(tmp_path / "run", "toy") == (tmp_path / "run" / "checkpoint-toy-3", 3)


def test_a_signal_in_the_last_step_is_not_forgotten(toy: ModuleType, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 6"):
        toy.run_toy(tmp_path / "run", ALONE, resume=False, stop=stop)


class Scripted(OneWeight):
    """An objective on one weight whose losses, and number of optimizer steps, a test dictates."""

    name = "scripted"

    def __init__(self, losses: list[list[float]]) -> None:
        super().__init__()
        self.losses = losses

    def update(self, step: int, optimizer_step: Any) -> dict[str, torch.Tensor | float]:
        for slope in self.losses[step]:
            optimizer_step([lambda slope=slope: self.net.weight.sum() * slope])
        self.step = step
        return {"loss": torch.tensor(float(step)), "reward": 2.0 * step}

    def samples(self) -> list[str]:
        return [f"of step {self.step}"]


def run_scripted(folder: Path, losses: list[list[float]], **options: Any) -> list[dict[str, Any]]:
    objective = Scripted(losses)
    loop = LoopConfig(steps=len(losses), **options)
    optimizer = OptimizerConfig(learning_rate=0.1)
    with Run.create(folder, loop, resume=False) as run:
        train(objective, optimizer=optimizer, loop=loop, run=run, parallel=ALONE, resume=False)
    return metrics(folder)


def test_logs_are_means_over_the_steps_and_optimizer_steps_since_the_last_line(tmp_path: Path) -> None:
    entries = run_scripted(
        tmp_path / "run", [[1.0], [3.0], [2.0, 4.0], [6.0], [5.0]], log_every=2, checkpoint_every=3
    )
    assert [(e["step"], e["loss"], e["reward"], round(e["grad_norm"], 5)) for e in entries] == [
        (2, 0.5, 1.0, 2.0),
        (3, 2.0, 4.0, 3.0),
        (4, 3.0, 6.0, 6.0),
        (5, 4.0, 8.0, 5.0),
    ]
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        "checkpoint-scripted-3",
        "checkpoint-scripted-5",
    ]


def test_whatever_a_step_raises_the_finished_steps_are_saved(tmp_path: Path) -> None:
    steps: list[Any] = [[1.0], [1.0], [1.0], None, [1.0]]
    with pytest.raises(TypeError, match="NoneType"):
        run_scripted(tmp_path / "run", steps)
    assert checkpoint.latest(tmp_path / "run", "scripted") == (tmp_path / "run" / "checkpoint-scripted-3", 3)


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_its_samples_are_named(tmp_path: Path) -> None:
    """As if they had not been there; their scalars are in no mean. The checkpoint at step 4 waits for step 5."""
    slopes = [[1.0], [2.0], [float("nan")], [float("inf")], [0.5]]
    entries = run_scripted(tmp_path / "run", slopes, log_every=5, checkpoint_every=4)
    noted = [(e["step"], e["samples"]) for e in entries if "skipped_step" in e]
    assert noted == [(3, "of step 2"), (4, "of step 3")]
    logged = [(e["step"], e["loss"], round(e["grad_norm"], 5)) for e in entries if "loss" in e]
    assert logged == [(4, 0.5, 1.5), (5, 4.0, 0.5)]
    run_scripted(tmp_path / "without", [slopes[0], slopes[1], slopes[4]])
    weights = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    for net, name in zip(weights, ("run/checkpoint-scripted-5", "without/checkpoint-scripted-3"), strict=True):
        checkpoint.load_weights(tmp_path / name, {"net": net})
    assert torch.equal(weights[0].weight, weights[1].weight)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-scripted-5"]


def test_divergence_stops_the_run_before_a_checkpoint_takes_it_in(tmp_path: Path) -> None:
    losses = [[1.0], [1.0], *[[float("nan")]] * 4, [1.0]]
    with pytest.raises(UserError, match="by step 6 the gradient norm is nan, as in 4 steps in a row, training has"):
        run_scripted(tmp_path / "run", losses, log_every=2, checkpoint_every=2)
    assert checkpoint.latest(tmp_path / "run", "scripted") == (tmp_path / "run" / "checkpoint-scripted-2", 2)


class Quartic(Scripted):
    """w^4 / 4 from w = 1: a rate of 1e25 takes it where the next gradient overflows."""

    name = "quartic"

    def __init__(self) -> None:
        super().__init__([])
        nn.init.ones_(self.net.weight)

    def update(self, step: int, optimizer_step: Any) -> dict[str, torch.Tensor | float]:
        optimizer_step([lambda: self.net.weight.pow(4).sum() / 4])
        self.step = step
        return {}


class Settings(Config):
    optimizer: OptimizerConfig
    loop: LoopConfig


def run_quartic(folder: Path, rate: float, *, resume: bool, **loop: Any) -> torch.Tensor:
    config = Settings(optimizer=OptimizerConfig(learning_rate=rate), loop=LoopConfig(**{"steps": 6, **loop}))
    objective = Quartic()
    with Run.create(folder, config, resume=resume) as run:
        train(objective, optimizer=config.optimizer, loop=config.loop, run=run, parallel=ALONE, resume=resume)
    return objective.net.weight.detach()


def test_a_diverged_run_goes_on_with_a_lower_rate_as_its_message_says(tmp_path: Path) -> None:
    fresh = run_quartic(tmp_path / "fresh", 1e-2, resume=False)
    assert not torch.equal(fresh, torch.ones_like(fresh))
    line = "by step 5 the gradient norm is inf, as in 4 steps in a row, training has diverged: "
    line += r"lower quartic\.optimizer\.learning_rate, then --resume, which begins the stage again$"
    with pytest.raises(UserError, match=line):
        run_quartic(tmp_path / "run", 1e25, resume=False, log_every=1)
    assert torch.equal(run_quartic(tmp_path / "run", 1e-2, resume=True), fresh)


def test_a_checkpoint_that_has_diverged_itself_is_named_and_can_be_removed(tmp_path: Path) -> None:
    """The gradient of step 1 is finite, the weights after it are not of use: only the next step shows it."""
    folder, often = tmp_path / "run", {"checkpoint_every": 1}
    bad = folder / "checkpoint-quartic-1"
    with pytest.raises(UserError, match=", then --resume, which goes on from checkpoint-quartic-1$"):
        run_quartic(folder, 1e25, resume=False, **often)
    end = f"lower quartic.optimizer.learning_rate, or remove {bad}, which may have diverged too, then --resume"
    with pytest.raises(UserError, match=re.escape(end) + "$"):
        run_quartic(folder, 1e-2, resume=True, **often)
    shutil.rmtree(bad)
    assert torch.equal(
        run_quartic(folder, 1e-2, resume=True, **often), run_quartic(tmp_path / "fresh", 1e-2, resume=False)
    )


def test_lengths_and_intervals_changed_on_resume_leave_the_weights_bit_identical(tmp_path: Path) -> None:
    run_quartic(tmp_path / "run", 1e-2, resume=False, steps=3, log_every=1, keep=1)
    longer = run_quartic(tmp_path / "run", 1e-2, resume=True, steps=6, log_every=2, checkpoint_every=1, keep=3)
    assert torch.equal(longer, run_quartic(tmp_path / "fresh", 1e-2, resume=False))
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        f"checkpoint-quartic-{step}" for step in (4, 5, 6)
    ]


def test_a_checkpoint_past_the_end_is_refused(tmp_path: Path) -> None:
    run_scripted(tmp_path / "run", [[1.0]] * 3)
    loop = LoopConfig(steps=3)
    with (
        Run.create(tmp_path / "run", loop, resume=True) as run,
        pytest.raises(UserError, match=r"lies past the 2 steps of the stage: set scripted\.loop\.steps to 3 or more"),
    ):
        train(
            Scripted([]), optimizer=OptimizerConfig(learning_rate=0.1), loop=LoopConfig(steps=2), run=run,
            parallel=ALONE, resume=True,
        )  # fmt: skip
