"""`finetune.heads_first`: the heads learn alone, then the LoRA too; on two ranks, divided in every way, and resumed."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

Session = Callable[..., dict[str, Any]]
STAGES = ["backbone", "pretrain", "finetune"]
FIRST = ("--set", "finetune.heads_first=2", "--set", "model.width=64")
KEPT = ("--set", "finetune.loop={steps=4, log_every=1, checkpoint_every=1, keep=4, save_in_background=false}")
MESHES = (
    "{}", "{reshard_after_forward='always'}", "{reshard_after_forward='never'}", "{replicate=2}",
    "{context=2, context_method='ulysses'}", "{strategy='deepspeed', zero_stage=2}",
    "{strategy='deepspeed', zero_stage=3}",
)  # fmt: skip


@pytest.fixture(scope="module")
def train(
    session: Session, write_run: Callable[..., Path], clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Trains in a folder of this name, which it returns."""
    root = tmp_path_factory.mktemp("heads-first")

    def run(name: str, *words: str, ranks: int = 1, codes: int = 0, **options: Any) -> Path:
        path = write_run(root / f"{name}.toml", root / name, clips, STAGES)
        ended = session("train", path, *FIRST, *KEPT, *words, ranks=ranks, **options)
        assert ended["codes"] == [codes] * ranks, ended["errors"]
        return root / name

    return run


@pytest.fixture(scope="module")
def alone(train: Callable[..., Path]) -> Path:
    """The run folder of one process."""
    return train("alone")


def logged(folder: Path, name: str) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if line["stage"] == "finetune"]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Of a checkpoint."""
    whole = folder / f"whole-{step}.pt"
    dcp_to_torch_save(folder / f"checkpoint-finetune-{step}", whole)
    return {name: value for name, value in torch.load(whole).items() if name.startswith("model.")}


def test_the_lora_rests_until_the_heads_have_learnt(alone: Path) -> None:
    before, at_two, after = (weights(alone, step) for step in (1, 2, 3))
    moved = {
        part: [not torch.equal(one[name], other[name]) for name in one if name.startswith(f"model.{part}.")]
        for one, other in ((before, at_two),)
        for part in ("transformer", "heads")
    }
    assert len(moved["transformer"]) >= 8 and not any(moved["transformer"])
    assert len(moved["heads"]) > 10 and all(moved["heads"])
    assert any(not torch.equal(at_two[name], after[name]) for name in at_two if name.startswith("model.transformer."))
    assert logged(alone, "grad_norm.adapter")[:2] == [0, 0] and min(logged(alone, "grad_norm.adapter")[2:]) > 0


@pytest.mark.parametrize("mesh", [MESHES[0], *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in MESHES[1:])])
def test_two_ranks_in_micro_batches_are_one(train: Callable[..., Path], alone: Path, mesh: str) -> None:
    words = ("--set", f"parallel={mesh}", "--set", "finetune.micro_batch=1")
    found = logged(train(f"two-{MESHES.index(mesh)}", *words, ranks=2), "loss")
    assert len(found) == 4 and found == pytest.approx(logged(alone, "loss"), rel=1e-4)


@pytest.mark.parametrize(
    ("ranks", "step"), [(1, 1), *(pytest.param(r, s, marks=pytest.mark.slow) for r, s in ((1, 2), (2, 1), (2, 2)))]
)
def test_a_killed_run_that_is_resumed_is_the_uninterrupted_one(
    train: Callable[..., Path], alone: Path, ranks: int, step: int
) -> None:
    """To the bit at an equal number of ranks; killed while the heads learn alone, and where the LoRA begins."""
    name = f"killed-{ranks}-{step}"
    train(name, ranks=ranks, kill={"stage": "finetune", "step": step}, codes=-signal.SIGKILL)
    again = train(name, "--resume", ranks=ranks)
    whole = alone if ranks == 1 else train(f"whole-{step}", ranks=2)
    one, two = weights(whole, 4), weights(again, 4)
    assert one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())
