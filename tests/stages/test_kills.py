"""Killed with SIGKILL at any step of any stage, and in the middle of a checkpoint, a resumed run loses nothing."""

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Session = Callable[..., dict[str, Any]]
WriteRun = Callable[..., Path]
STEPS = {"backbone": 6, "pretrain": 6, "finetune": 6, "reinforce": 4}
OFTEN = [word for stage, steps in STEPS.items() for word in (
    "--set", f"{stage}.loop={{steps={steps}, log_every=1, checkpoint_every=2}}"
)]  # fmt: skip
MOMENTS = 12  # a checkpoint changes the disk for good at least as often


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged lines without what depends on the clock."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: entry[name] for name in entry if name not in ("time", "seconds")} for entry in entries]


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
    assert compared == 8  # the transformer, four times the heads, one adapter and two
    assert [path.read_bytes() for path in sorted(folder.glob("checkpoint-*/*.distcp"))] == [
        path.read_bytes() for path in sorted(expected.glob("checkpoint-*/*.distcp"))
    ]


def test_a_run_killed_in_every_stage_ends_bit_identical(
    session: Session, write_run: WriteRun, clips: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Between two checkpoints; in a stage's first step; before its model is in place; in a checkpoint; in the last."""
    folder = tmp_path / "killed"
    kills = [
        {"stage": "backbone", "step": 3},
        {"stage": "pretrain", "step": 0},
        {"stage": "pretrain", "export": True},
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
