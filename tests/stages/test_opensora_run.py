"""The phases on a small Open-Sora 1.2: they learn a batch by heart, two ranks are one, a killed run loses nothing."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.stages.released_run import run_text

Session = Callable[..., dict[str, Any]]
FAST = {"learning_rate": 1e-2}
KEPT = {"checkpoint_every": 10, "save_in_background": False}
CHANGES: dict[str, Any] = {
    "pretrain": {"optimizer": FAST, "loop": {"steps": 30}},
    "finetune": {"rank": 4, "caption_dropout": 0.5, "optimizer": FAST, "loop": {"steps": 30, **KEPT}},
    "reinforce": {"guidance": 2.0},
}


@pytest.fixture(scope="module")
def write(write_clips: Callable[..., Path], opensora: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Writes a run file with `CHANGES` for two clips of 5 frames and 32 x 32 pixels, which are one batch."""
    data = write_clips(tmp_path_factory.mktemp("opensora") / "data", scale=2, count=2)

    def write(folder: Path) -> Path:
        path = folder.with_suffix(".toml")
        path.write_text(run_text(folder, opensora, data, kind="opensora", last_tap=3, **CHANGES))
        return path

    return write


@pytest.fixture(scope="module")
def whole(session: Session, write: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opensora") / "whole"
    ended = session("train", write(folder))
    assert ended["codes"] == [0], ended["errors"]
    return folder


def logged(folder: Path, stage: str, name: str) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if line["stage"] == stage]


def adapter(folder: Path, stage: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"model-{stage}" / "adapters" / name / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize(
    ("stage", "loss", "below"), [("pretrain", "depth_loss", 0.5), ("finetune", "diffusion_loss", 0.8)]
)
def test_a_batch_is_learnt_by_heart(whole: Path, stage: str, loss: str, below: float) -> None:
    losses = logged(whole, stage, loss)
    assert len(losses) == 30
    assert sum(losses[-5:]) < below * sum(losses[:5]), losses


def test_the_policy_acts_and_its_adapter_is_trained(whole: Path) -> None:
    assert len(logged(whole, "reinforce", "reward")) == 2
    trained = adapter(whole, "reinforce", "reinforce")
    assert any(tensor.abs().max() > 0 for name, tensor in trained.items() if "lora_B" in name)
    before, after = (adapter(whole, stage, "finetune") for stage in ("finetune", "reinforce"))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("stage", "start", "steps", "names"),
    [
        ("pretrain", None, 5, ["depth_loss", "flow_loss"]),
        ("finetune", "pretrain", 5, ["depth_loss", "flow_loss", "diffusion_loss", "warp_loss"]),
    ],
)
def test_losses_of_two_ranks_equal_those_of_one(
    session: Session, write: Any, whole: Path, tmp_path: Path, stage: str, start: str | None, steps: int,
    names: list[str],
) -> None:  # fmt: skip
    changes = [f'stages=["{stage}"]', f"{stage}.loop.steps={steps}"]
    if start is not None:
        changes.append(f'init="{whole / f"model-{start}"}"')
    ended = session("train", write(tmp_path / "two"), *(w for change in changes for w in ("--set", change)), ranks=2)
    assert ended["codes"] == [0, 0], ended["errors"]
    for name in names:
        found, expected = (logged(folder, stage, name)[:steps] for folder in (tmp_path / "two", whole))
        assert found == pytest.approx(expected, rel=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "start", "names"),
    [
        ("pretrain", None, ["depth_loss", "flow_loss", "grad_norm"]),
        ("finetune", "pretrain", ["depth_loss", "flow_loss", "diffusion_loss", "warp_loss", "grad_norm"]),
        ("reinforce", "finetune", ["reward", "kl", "ratio", "grad_norm"]),
    ],
)
def test_ranks_that_divide_each_frame_train_as_one(
    session: Session, write: Any, whole: Path, tmp_path: Path, stage: str, start: str | None, names: list[str]
) -> None:
    """Its four places over two ranks, with activations that are computed again; of `reinforce` one update."""
    steps = 1 if stage == "reinforce" else 5
    changes = [f'stages=["{stage}"]', f"{stage}.loop.steps={steps}", "parallel={context=2}", "checkpointing=full"]
    if start is not None:
        changes.append(f'init="{whole / f"model-{start}"}"')
    ended = session("train", write(tmp_path / "two"), *(w for change in changes for w in ("--set", change)), ranks=2)
    assert ended["codes"] == [0, 0], ended["errors"]
    for name in names:
        found, expected = (logged(folder, stage, name)[:steps] for folder in (tmp_path / "two", whole))
        assert len(found) == steps and found == pytest.approx(expected, rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_a_killed_run_that_is_resumed_is_the_uninterrupted_one(
    session: Session, write: Any, whole: Path, tmp_path: Path
) -> None:
    run = write(tmp_path / "run")
    assert session("train", run, kill={"stage": "finetune", "step": 15})["codes"] == [-signal.SIGKILL]
    ended = session("train", run, "--resume")
    assert ended["codes"] == [0], ended["errors"]
    for stage, name in (("finetune", "finetune"), ("reinforce", "reinforce")):
        one, two = (adapter(folder, stage, name) for folder in (whole, tmp_path / "run"))
        assert all(torch.equal(one[key], two[key]) for key in one)
