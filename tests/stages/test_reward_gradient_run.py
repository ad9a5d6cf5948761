"""Stage `reward_gradient` over a published layout: trained, evaluated, killed and resumed, on another device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.reproducible import reproducible

STAGES = ["pretrain", "finetune", "reward_gradient"]
ADAPTER = Path("model-reward_gradient") / "adapters" / "reinforce" / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def whole(
    session: Callable[..., dict[str, Any]], write_released_run: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """The folder of a run of all phases."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = session("train", write_released_run(folder.with_suffix(".toml"), folder, STAGES))
    assert ended["codes"] == [0], ended["errors"]
    return folder


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [reproducible(line) for line in lines if line["stage"] == "reward_gradient"]


def test_it_trains_its_lora_alone_and_is_evaluated(whole: Path) -> None:
    assert all(line["reward"] < 0 < line["grad_norm"] for line in logged(whole)) and len(logged(whole)) == 2
    trained = {name: weight for name, weight in load_file(whole / ADAPTER).items() if "lora_B" in name}
    assert trained and all(weight.any() for name, weight in trained.items() if "blocks.1.attn1.to_q" in name)
    before, after = (
        load_file(whole / f"model-{stage}" / "adapters" / "finetune" / ADAPTER.name) for stage in STAGES[1:]
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    summary = json.loads((whole / "summary.json").read_text())["stages"]
    assert list(summary) == STAGES and summary["reward_gradient"]["absrel"] == summary["finetune"]["absrel"]


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_to_the_bit(
    whole: Path, session: Callable[..., dict[str, Any]], write_released_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = write_released_run(tmp_path / "run.toml", tmp_path / "run", STAGES[-1:], whole / "model-finetune")
    every = ("--set", "reward_gradient.loop={steps=2, log_every=1, checkpoint_every=1}")
    session("train", run, *every, kill={"stage": "reward_gradient", "step": 1})
    ended = session("train", run, *every, "--resume")
    assert ended["codes"] == [0], ended["errors"]
    ours, expected = load_file(tmp_path / "run" / ADAPTER), load_file(whole / ADAPTER)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_on_another_device_nothing_is_left_on_the_cpu(
    whole: Path, on_device: Callable[..., None], write_released_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = write_released_run(tmp_path / "run.toml", tmp_path / "run", STAGES[-1:], whole / "model-finetune")
    on_device("train", run)
    for here, there in zip(logged(tmp_path / "run"), logged(whole), strict=True):
        assert here["reward"] == pytest.approx(there["reward"], rel=1e-5)
