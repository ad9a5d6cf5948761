"""The DPT head in whole runs: on two ranks, in every division that a mesh allows, and resumed."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Session = Callable[..., dict[str, Any]]
STAGES = ["backbone", "pretrain", "finetune"]
DPT = ("--set", 'model.heads={kind="dpt", width=8}', "--set", "model.width=64")
MESHES = ("{}", "{replicate=2}", "{context=2, context_method='ulysses'}")
KEPT = ("--set", "pretrain.loop={steps=3, log_every=1, checkpoint_every=1, save_in_background=false}")


@pytest.fixture(scope="module")
def train(
    session: Session, write_run: Callable[..., Path], clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Trains with a DPT head in a folder of this name, which it returns."""
    root = tmp_path_factory.mktemp("dpt")

    def run(name: str, *words: str, ranks: int = 1, codes: int = 0, **options: Any) -> Path:
        path = write_run(root / f"{name}.toml", root / name, clips, STAGES)
        ended = session("train", path, *DPT, *KEPT, *words, ranks=ranks, **options)
        assert ended["codes"] == [codes] * ranks, ended["errors"]
        return root / name

    return run


@pytest.fixture(scope="module")
def alone(train: Callable[..., Path]) -> Path:
    """The run folder of one process."""
    return train("alone")


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["stage"] != "backbone"]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_two_ranks_are_one(train: Callable[..., Path], alone: Path, mesh: str) -> None:
    """Weights sharded (FSDP2), held twice (HSDP), and the frames of a clip divided."""
    found = losses(train(f"two-{MESHES.index(mesh)}", "--set", f"parallel={mesh}", ranks=2))
    assert len(found) == 6 and found == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_that_is_resumed_is_the_uninterrupted_one(
    train: Callable[..., Path], alone: Path, ranks: int
) -> None:
    """To the bit at an equal number of ranks."""
    name = f"killed-{ranks}"
    train(name, ranks=ranks, kill={"stage": "pretrain", "step": 2}, codes=-signal.SIGKILL)
    again = train(name, "--resume", ranks=ranks)
    whole = alone if ranks == 1 else train("whole-2", ranks=2)
    for stage in STAGES[1:]:
        one, two = (load_file(folder / f"model-{stage}" / "heads" / "model.safetensors") for folder in (whole, again))
        assert one.keys() == two.keys() and len(one) > 10
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items()), stage
