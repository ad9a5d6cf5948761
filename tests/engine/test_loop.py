"""The loop: a killed and resumed run ends bit-identical, signals stop it in order, divergence is reported."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from phys4d.engine import checkpoint
from phys4d.engine.errors import Interrupted, UserError
from phys4d.engine.loop import LoopConfig, OptimizerConfig, train
from phys4d.engine.parallel import Parallel
from phys4d.engine.telemetry import Run

ALONE = Parallel(0, 1, torch.device("cpu"), None)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged lines without what depends on the clock."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: entry[name] for name in entry if name not in ("time", "seconds")} for entry in entries]


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_the_resumed_run_is_bit_identical(
    toy: ModuleType,
    uninterrupted: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def stop(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), number)

    with pytest.raises(
        Interrupted, match="stopped by a signal in stage toy after step 2: checkpoint"
    ) as caught:
        toy.run_toy(tmp_path / "run", ALONE, resume=False, stop=stop)
    assert (caught.value.step, caught.value.path) == (2, tmp_path / "run" / "checkpoint-toy-2")
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    got = toy.weights(toy.run_toy(tmp_path / "run", ALONE, resume=True))
    assert all(torch.equal(got[name], value) for name, value in uninterrupted[1].items())


def test_a_signal_in_the_last_step_is_not_forgotten(toy: ModuleType, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 6"):
        toy.run_toy(tmp_path / "run", ALONE, resume=False, stop=stop)


class Scripted:
    """An objective on one weight whose losses, and number of optimizer steps, a test dictates."""

    name = "scripted"

    def __init__(self, losses: list[list[float]]) -> None:
        self.losses, self.net = losses, nn.Linear(1, 1, bias=False)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.parameters()), "lr_scale": 1.0}]

    def update(self, step: int, minimise: Any) -> dict[str, torch.Tensor | float]:
        for slope in self.losses[step]:
            minimise(self.net.weight.sum() * slope)
        return {"loss": torch.tensor(float(step)), "reward": 2.0 * step}


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


def test_divergence_stops_the_run_before_a_checkpoint_takes_it_in(tmp_path: Path) -> None:
    losses = [[1.0], [1.0], [float("nan")], [1.0], [1.0]]
    with pytest.raises(
        UserError, match=r"scripted: by step 4 the gradient norm is nan, training has diverged: lower"
    ):
        run_scripted(tmp_path / "run", losses, log_every=100, checkpoint_every=2)
    assert checkpoint.latest(tmp_path / "run", "scripted") == (tmp_path / "run" / "checkpoint-scripted-2", 2)


def test_a_checkpoint_past_the_end_is_refused(tmp_path: Path) -> None:
    run_scripted(tmp_path / "run", [[1.0]] * 3)
    loop = LoopConfig(steps=3)
    with (
        Run.create(tmp_path / "run", loop, resume=True) as run,
        pytest.raises(UserError, match="lies past the 2 steps"),
    ):
        train(
            Scripted([]), optimizer=OptimizerConfig(learning_rate=0.1), loop=LoopConfig(steps=2), run=run,
            parallel=ALONE, resume=True,
        )  # fmt: skip
