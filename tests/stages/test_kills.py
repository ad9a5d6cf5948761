"""Killed with SIGKILL at any step of any stage, and in the middle of a checkpoint, a resumed run loses nothing.

Nor does one that a signal stops outside of the steps, and that says in one line how it goes on.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import phys4d.train
from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.journal import partial_folder
from phys4d.engine.data.tools.verify import verify
from phys4d.models import folder as model_folder
from phys4d.models.world import WorldModel
from phys4d.stages import preflight
from phys4d.teachers import label
from phys4d.teachers.small_depth import SmallDepth
from tests.engine.reproducible import reproducible

Session = Callable[..., dict[str, Any]]
WriteRun = Callable[..., Path]
STEPS = {"backbone": 6, "pretrain": 6, "finetune": 6, "reinforce": 4}
OFTEN = [word for stage, steps in STEPS.items() for word in (
    "--set", f"{stage}.loop={{steps={steps}, log_every=1, checkpoint_every=2, save_in_background=false}}"
)]  # fmt: skip
MOMENTS = 12  # a checkpoint changes the disk for good at least as often


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged lines without what depends on the clock."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [reproducible(entry) for entry in entries]


def taken(folder: Path) -> float:
    return json.loads((folder / "clock.json").read_text())["seconds"]


@pytest.fixture(scope="module")
def uninterrupted(
    session: Session, write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "whole"
    run = write_run(folder.with_suffix(".toml"), folder, clips, list(STEPS))
    ended = session("train", run, *OFTEN)
    assert ended["codes"] == [0], ended["errors"]
    return folder


def survive(session: Session, run: Path, folder: Path, kills: list[dict[str, Any]]) -> None:
    """Starts the run, kills it at each of these points, and lets the last session end."""
    resume: list[str] = []
    before = 0.0
    for kill in kills:
        ended = session("train", run, *OFTEN, *resume, kill=kill)
        assert ended["codes"] == [-signal.SIGKILL], (kill, ended["errors"])
        assert taken(folder) > before
        before = taken(folder)
        resume = ["--resume"]
    ended = session("train", run, *OFTEN, *resume)
    assert ended["codes"] == [0], ended["errors"]
    assert json.loads((folder / "summary.json").read_text())["seconds"] >= round(before, 1)


def assert_same(folder: Path, expected: Path) -> None:
    assert metrics(folder) == metrics(expected)
    compared = 0
    for path in expected.glob("model-*/**/*.safetensors"):
        theirs, ours = load_file(path), load_file(folder / path.relative_to(expected))
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), path
        compared += 1
    assert compared == 11  # the transformer, four times the heads, one adapter and two, each for diffusers and for peft
    assert [path.read_bytes() for path in sorted(folder.glob("checkpoint-*/*.distcp"))] == [
        path.read_bytes() for path in sorted(expected.glob("checkpoint-*/*.distcp"))
    ]


def test_a_run_killed_in_every_stage_ends_bit_identical(
    session: Session, write_run: WriteRun, clips: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Between two checkpoints; in a stage's first step; before its model is in place, behind that, and behind its
    evaluation; in a checkpoint; in the last.
    """
    folder = tmp_path / "killed"
    kills = [
        {"stage": "backbone", "step": 3},
        {"stage": "pretrain", "step": 0},
        {"stage": "pretrain", "export": True},
        {"stage": "pretrain", "behind": "model"},
        {"stage": "pretrain", "behind": "evaluation"},
        {"stage": "finetune", "step": 4, "moment": 3},
        {"stage": "reinforce", "step": 3},
    ]
    survive(session, write_run(tmp_path / "run.toml", folder, clips, list(STEPS)), folder, kills)
    assert_same(folder, uninterrupted)
    stages = json.loads((folder / "summary.json").read_text())["stage_seconds"]
    assert list(stages) == list(STEPS) and all(seconds > 0 for seconds in stages.values())
    resumed = json.loads((folder / "provenance.json").read_text())["resumed"]
    assert len(resumed) == len(kills)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_random_in_every_stage_ends_bit_identical(
    session: Session, write_run: WriteRun, clips: Path, uninterrupted: Path, tmp_path: Path, seed: int
) -> None:
    """At a random step of each stage and, in every stage too, at a random moment of writing a checkpoint."""
    folder, draw = tmp_path / "killed", random.Random(seed)
    kills: list[dict[str, Any]] = []
    for stage, steps in STEPS.items():
        kills.append({"stage": stage, "step": draw.randrange(steps - 2)})
        kills.append({"stage": stage, "step": steps - 2, "moment": draw.randrange(MOMENTS)})
        kills.append({"stage": stage, "export": True})
    survive(session, write_run(tmp_path / "run.toml", folder, clips, list(STEPS)), folder, kills)
    assert_same(folder, uninterrupted)


def signalled(function: Callable[..., Any], number: signal.Signals, *, behind: bool = False) -> Callable[..., Any]:
    """The function, at whose beginning (or end) this process gets a signal three times."""

    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options) if behind else None
        for _ in range(3):
            os.kill(os.getpid(), number)
        return result if behind else function(*arguments, **options)

    return call


def stops(capsys: pytest.CaptureFixture[str], number: signal.Signals, words: list[str], code: int) -> str:
    """Runs the command, which must end with this exit code and one line; returns the end of that line."""
    capsys.readouterr()
    assert main(words) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("phys4d: ")]
    assert line.startswith(f"phys4d: stopped by {number.name}: ")
    return line.removeprefix(f"phys4d: stopped by {number.name}: ")


def test_signals_outside_of_the_steps_end_in_one_line_and_lose_nothing(
    write_run: WriteRun, clips: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While data is checked, a model saved, loaded and evaluated, and the summary written."""
    folder = tmp_path / "run"
    words = ["train", str(write_run(tmp_path / "run.toml", folder, clips, list(STEPS)[:2])), *OFTEN]
    kept = f"{folder}: finished stages and checkpoints are kept: --resume goes on from there"

    def stopped(owner: Any, name: str, number: signal.Signals, code: int = 3, behind: bool = False) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, signalled(getattr(owner, name), number, behind=behind))
            return stops(capsys, number, words, code)

    assert stopped(preflight, "check_data", signal.SIGTERM, 130) == "what was being written is not kept"
    assert not folder.exists()
    assert stopped(model_folder, "_write", signal.SIGUSR1, behind=True) == kept
    assert not list(folder.glob("model-*")) or not (folder / "model-backbone").exists()
    words.append("--resume")
    as_it_was = f"{tmp_path}/run.toml: the run is as it was: the same command goes on with it"
    assert stopped(preflight, "check_data", signal.SIGINT) == as_it_was
    assert stopped(model_folder, "load", signal.SIGTERM) == kept
    assert (folder / "model-backbone").exists() and not (folder / "model-pretrain").exists()
    assert stopped(WorldModel, "generate", signal.SIGHUP) == kept
    assert (folder / "model-pretrain").exists() and not (folder / "evaluation" / "pretrain.json").exists()
    assert stopped(phys4d.train, "write_summary", signal.SIGTERM) == kept
    assert (folder / "evaluation" / "pretrain.json").exists() and not (folder / "summary.json").exists()
    assert main(words) == 0
    assert json.loads((folder / "summary.json").read_text())["stages"].keys() == {"pretrain"}
    for path in uninterrupted.glob("model-[bp]*/**/*.safetensors"):
        theirs, ours = load_file(path), load_file(folder / path.relative_to(uninterrupted))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), path


def test_a_signal_while_labelling_leaves_nothing_half_written(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["label", "--videos", str(clips), "--scenes", str(clips), "--out", str(out)]
    monkeypatch.setattr(label, "refuse_shared", lambda *arguments: None)  # these clips serve as both
    monkeypatch.setattr(SmallDepth, "prepare", signalled(lambda *arguments: None, signal.SIGTERM))
    assert stops(capsys, signal.SIGTERM, words, 130) == "what was being written is not kept"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_job_that_is_signalled_while_it_simulates_keeps_its_clips(tmp_path: Path) -> None:
    """All its processes get SIGTERM and SIGUSR1, twice, as under Slurm; the same command then goes on."""
    out, journal = tmp_path / "out", partial_folder(tmp_path / "out") / "journal.jsonl"
    scenes = ["--family", "fall", "--looks", "plain", "--frames", "9", "--fps", "20", "--size", "32", "--seed", "1"]
    words = ["simulate", "--out", str(out), "--clips", "40", "--workers", "1", *scenes]
    command = [sys.executable, "-m", "phys4d", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as job:
        while not journal.exists() or len(journal.read_text().splitlines()) < 3:
            with pytest.raises(subprocess.TimeoutExpired):
                job.wait(0.05)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            os.killpg(job.pid, number)
        error = job.communicate()[1]
    assert job.returncode == 3, error
    assert "Traceback" not in error
    assert error.splitlines()[-1].endswith(f": {out}: finished clips are kept: the same command goes on from there")
    kept = len(journal.read_text().splitlines())
    assert kept >= 3 and not out.exists()
    assert main(words) == 0
    assert len(ClipDataset(out)) == 40 and verify(out) == []
