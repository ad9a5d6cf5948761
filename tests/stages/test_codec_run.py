"""Stage `codec` and what stands on it: a run of a small model from nothing, resumed, and refused for other kinds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

WEIGHTS = Path("vae") / "diffusion_pytorch_model.safetensors"
SMALL = ("--set", "model.kind=small")
STAGES = ["codec", "backbone", "pretrain", "finetune"]


@pytest.fixture(scope="module")
def whole(
    session: Callable[..., dict[str, Any]], write_run: Callable[..., Path], clips: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """The folder of a run of a small model."""
    folder = tmp_path_factory.mktemp("small") / "run"
    ended = session("train", write_run(folder.with_suffix(".toml"), folder, clips, STAGES), *SMALL)
    assert ended["codes"] == [0], ended["errors"]
    return folder


def test_the_codec_is_trained_once_and_handed_on(whole: Path) -> None:
    trained, handed = (load_file(whole / f"model-{stage}" / WEIGHTS) for stage in STAGES[:2])
    assert trained.keys() == handed.keys() and all(torch.equal(trained[name], handed[name]) for name in trained)
    assert not (whole / "model-pretrain" / "vae").exists()  # that folder names the one of the backbone
    before, after = (
        load_file(whole / f"model-{stage}" / "transformer" / WEIGHTS.name) for stage in STAGES[:2]
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["stage"] == "codec"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert list(json.loads((whole / "summary.json").read_text())["stages"]) == STAGES[2:]


def test_killed_and_resumed_it_is_the_same_to_the_bit(
    whole: Path, session: Callable[..., dict[str, Any]], write_run: Callable[..., Path], clips: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "run", clips, STAGES[:1])
    every = (*SMALL, "--set", "codec.loop={steps=3, log_every=1, checkpoint_every=1}")
    session("train", run, *every, kill={"stage": "codec", "step": 2})
    ended = session("train", run, *every, "--resume")
    assert ended["codes"] == [0], ended["errors"]
    ours, expected = load_file(tmp_path / "run" / "model-codec" / WEIGHTS), load_file(whole / "model-codec" / WEIGHTS)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_codec_without_weights_is_refused(clips: Path, refused: Callable[..., str]) -> None:
    line = refused(clips, stages=["codec"])
    assert line == 'codec: that of model.kind = "tiny" is not trained: set model.kind = "small"'
