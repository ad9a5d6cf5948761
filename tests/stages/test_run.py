"""A run from its file to its report, on clips of a few pixels: what comes out, what is refused, two processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phys4d.cli import main
from phys4d.engine.errors import UserError
from phys4d.evaluate.metrics import METRICS
from phys4d.models import folder as model_folder
from phys4d.stages.gates import training_scalars
from phys4d.train import train

ALL = ["backbone", "pretrain", "finetune", "reinforce"]


WriteRun = Callable[..., Path]


@pytest.fixture(scope="module")
def finished(write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a whole run."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(write_run(folder.parent / "run.toml", folder, clips, ALL), [], resume=None, dry_run=False)
    return folder


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary["stages"]) == ALL[1:]
    for row in summary["stages"].values():
        assert {"absrel", "delta1", "epe", "warp_l1", "chamfer_4d", "reward"} <= set(row)
    assert summary["baselines"]["truth"]["reward"] == 0
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [s for s in ALL for _ in range(2 if s == "reinforce" else 3)]
    facts = json.loads((finished / "provenance.json").read_text())
    assert list(facts["flops_per_step_and_rank"]) == ALL and facts["peak"]["bf16_tflops"] is None
    attention = facts["attention"]
    assert attention["self"].startswith("sdpa: ") and attention["cross"].startswith("sdpa: ") and not attention["left"]
    assert "<html" in (finished / "report.html").read_text()
    for name in ("config.toml", "provenance.json", "tensorboard", "checkpoint-reinforce-2"):
        assert (finished / name).exists(), name


def test_a_model_folder_is_readable_as_its_other_files_are(finished: Path) -> None:
    """safetensors' own files are for their owner alone."""
    files = [path for path in (finished / "model-finetune").rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in files}) == 1 and len(files) >= 5


def test_the_metrics_of_gates_are_those_that_there_are(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for stage in ALL:
        named = set(training_scalars(stage)) - {"disparity_loss"}  # which labels without metres have
        assert named <= next(line.keys() for line in lines if line["stage"] == stage), stage
    for row in json.loads((finished / "summary.json").read_text())["stages"].values():
        assert {name for name in row if not name.endswith("_se")} == set(METRICS)


def test_rates_count_each_training_clip_once(finished: Path) -> None:
    """Clips of 2 x 2 x 2 tokens; a step of `reinforce` draws two samples for each of two conditions."""
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        clips = {"backbone": 2, "pretrain": 2, "finetune": 4, "reinforce": 4}[line["stage"]]
        assert line["speed.clips"] * line["seconds"] == pytest.approx(clips)
        assert line["speed.tokens"] * line["seconds"] == pytest.approx(8 * clips)
        assert 0 <= line["loader.seconds"] < line["seconds"] and line["memory.parameters"] > 0
        assert "speed.tflops" in line or line["step"] == 1
    norms = {(line["stage"], name) for line in lines for name in line if name.startswith("grad_norm.")}
    assert norms == {
        ("backbone", "grad_norm.transformer"), ("pretrain", "grad_norm.heads"), ("finetune", "grad_norm.heads"),
        ("finetune", "grad_norm.adapter"), ("reinforce", "grad_norm.adapter"),
    }  # fmt: skip


def test_each_stage_changes_what_it_trains_and_nothing_else(finished: Path) -> None:
    heads = {s: load_file(finished / f"model-{s}" / "heads" / "model.safetensors") for s in ALL}

    def equal(a: str, b: str) -> bool:
        return all(torch.equal(heads[a][name], heads[b][name]) for name in heads[a])

    assert not equal("backbone", "pretrain") and not equal("pretrain", "finetune") and equal("finetune", "reinforce")
    adapter = "adapters/finetune/pytorch_lora_weights.safetensors"
    before, after = (load_file(finished / f"model-{s}" / adapter) for s in ("finetune", "reinforce"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = load_file(finished / "model-reinforce" / "adapters/reinforce/pytorch_lora_weights.safetensors")
    assert any(t.abs().max() > 0 for name, t in trained.items() if "lora_B" in name)
    assert [(finished / f"model-{s}" / "transformer").exists() for s in ALL] == [True, False, False, False]


def test_the_drift_of_the_policy_is_nothing_at_first_and_then_something(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    drift = [line["head_drift"] for line in lines if line["stage"] == "reinforce"]
    assert len(drift) == 2 and drift[0] < 1e-6 < drift[1]


def test_the_same_run_again_is_bit_identical(
    write_run: WriteRun, finished: Path, clips: Path, tmp_path: Path
) -> None:
    train(write_run(tmp_path / "run.toml", tmp_path / "again", clips, ALL[:3]), [], resume=None, dry_run=False)
    for name in (
        "model-backbone/transformer/diffusion_pytorch_model.safetensors",
        "model-finetune/heads/model.safetensors",
    ):
        first, second = load_file(finished / name), load_file(tmp_path / "again" / name)
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_a_backbone_is_trained_on_from_that_of_another_run(
    write_run: WriteRun, finished: Path, clips: Path, tmp_path: Path
) -> None:
    start = finished / "model-backbone"
    run = write_run(tmp_path / "run.toml", tmp_path / "on", clips, ["backbone"], init=start)
    changes = ["backbone.optimizer.learning_rate=1e-9", "backbone.optimizer.weight_decay=0.0"]
    train(run, changes, resume=None, dry_run=False)
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(start / name), load_file(tmp_path / "on/model-backbone" / name)
    assert all((before[key] - after[key]).abs().max() < 1e-7 for key in before)
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_finished_run_resumes_to_itself_and_a_second_start_is_refused(finished: Path, clips: Path) -> None:
    run = finished.parent / "run.toml"
    before = (finished / "metrics.jsonl").read_bytes()
    train(run, [], resume="latest", dry_run=False)
    assert (finished / "metrics.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="--resume"):
        train(run, [], resume=None, dry_run=False)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["pretrain"], "'pretrain' starts from the output of 'backbone' or 'released', and would be given nothing"),
        (["backbone", "finetune"], "'finetune' starts from the output of 'pretrain', and would be given 'backbone'"),
        (["backbone", "backbone"], "names a stage twice"),
    ],
)
def test_orders_that_cannot_hand_over_are_refused(
    write_run: WriteRun,
    clips: Path,
    tmp_path: Path,
    stages: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, stages)
    assert main(["train", str(run), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.lopp.steps=3", "finetune.lopp"),
        ("finetune.batch=two", "finetune.batch"),
        ("finetune.data=nowhere", "nowhere holds no index.parquet"),
    ],
)
def test_faults_in_a_run_file_are_one_line(
    write_run: WriteRun, clips: Path, tmp_path: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ALL)
    assert main(["train", str(run), "--dry-run", "--set", override]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow  # tests/stages/test_ranks.py holds the same of every stage, without torchrun
def test_two_processes_train_finetune_as_one_does(
    write_run: WriteRun, finished: Path, clips: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "two", clips, ["finetune"], init=finished / "model-pretrain")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "phys4d", "train", str(run)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Warning" not in done.stderr
    losses = [
        [json.loads(line)["loss"] for line in (f / "metrics.jsonl").read_text().splitlines() if '"finetune"' in line]
        for f in (finished, tmp_path / "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert model_folder.load(tmp_path / "two" / "model-finetune").stage == "finetune"
