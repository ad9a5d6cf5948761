"""The whole program on another device type: nothing of the model stays on the CPU, and the figures are the CPU's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.cli import main
from tests.engine.reproducible import reproducible

STAGES = ["backbone", "pretrain", "finetune", "reinforce"]
OnDevice = Callable[..., None]


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [reproducible(line) for line in lines]


def test_every_stage_and_its_evaluation_on_a_device(
    on_device: OnDevice, write_run: Callable[..., Path], clips: Path, tmp_path: Path
) -> None:
    """Numbers differ by rounding alone: torch picks other CPU kernels for what it takes to be another device."""
    torch.set_num_threads(1)
    runs = {name: write_run(tmp_path / f"{name}.toml", tmp_path / name, clips, STAGES) for name in ("cpu", "device")}
    averaged = [word for stage in STAGES for word in ("--set", f"{stage}.optimizer.ema=0.5")]
    kept = {"pretrain": '["moments"]', "finetune": '["moments", "ema"]', "reinforce": '["ema"]'}
    offload = [word for stage, what in kept.items() for word in ("--set", f"{stage}.optimizer.offload={what}")]
    on_device("train", runs["device"], *averaged, *offload)
    assert main(["train", str(runs["cpu"]), *averaged]) == 0
    ours, theirs = logged(tmp_path / "device"), logged(tmp_path / "cpu")
    assert [(line["stage"], line["step"]) for line in ours] == [(line["stage"], line["step"]) for line in theirs]
    for here, there in zip(ours, theirs, strict=True):
        name = "reward" if here["stage"] == "reinforce" else "loss"
        assert here[name] == pytest.approx(there[name], rel=1e-5), (here["stage"], here["step"])
    tables = [json.loads((tmp_path / name / "summary.json").read_text())["stages"] for name in ("device", "cpu")]
    for stage in STAGES[1:]:
        for name in ("absrel", "epe", "warp_l1", "chamfer_4d", "psnr_moving", "reward"):
            assert tables[0][stage][name] == pytest.approx(tables[1][stage][name], rel=1e-4), (stage, name)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_released_folder_trains_and_is_evaluated_on_a_device(
    on_device: OnDevice, write_released_run: Callable[..., Path], tmp_path: Path, precision: str
) -> None:
    run = write_released_run(tmp_path / "run.toml", tmp_path / "run", STAGES[1:])
    on_device("train", run, "--set", f"precision={precision}")
    assert [line["stage"] for line in logged(tmp_path / "run")] == [stage for stage in STAGES[1:] for _ in range(2)]
    assert list(json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]) == STAGES[1:]
