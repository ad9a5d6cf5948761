"""Gates between stages: what they may name, that a run ends at one that is not reached, and how it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phys4d.cli import main

Refused = Callable[..., str]
WriteRun = Callable[..., Path]
STAGES = ["backbone", "pretrain", "finetune"]
QUICK = ["evaluate.scenes=2", "evaluate.samples=1", "evaluate.shown=1", "evaluate.ranked=1"]


def words(run: Path, *changes: str, resume: bool = False) -> list[str]:
    sets = [word for change in (*QUICK, *changes) for word in ("--set", change)]
    return ["train", str(run), *(["--resume"] if resume else []), *sets]


def logged(folder: Path, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def test_a_run_ends_at_a_gate_and_goes_on_with_more_steps(
    write_run: WriteRun, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, gate = tmp_path / "out", "pretrain.gate={absrel = '> 1e3', train.loss = '> 0'}"
    run = write_run(tmp_path / "run.toml", out, clips, STAGES)

    def ends(code: int, *changes: str, resume: bool = True) -> str:
        """The last line of a session."""
        capsys.readouterr()
        assert main(words(run, *changes, resume=resume)) == code
        return capsys.readouterr().err.splitlines()[-1].removeprefix("phys4d: ")

    line = ends(4, gate, resume=False)
    value = json.loads((out / "evaluation" / "pretrain.json").read_text())["means"]["absrel"]
    what = f"pretrain: gate not reached: absrel is {value:.4g}, asked is > 1e3; finetune does not start: train longer"
    what += " (raise pretrain.loop.steps) or lower the bar (pretrain.gate, which may change at any time), then --resume"
    assert line == f"{what}; figures: {out}/evaluation/pretrain.json"
    assert (out / "model-pretrain").is_dir() and not logged(out, "finetune") and not (out / "model-finetune").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["stages"]) == ["pretrain"]
    assert {name: one["reached"] for name, one in summary["gates"]["pretrain"].items()} == {
        "absrel": False, "train.loss": True,
    }  # fmt: skip
    assert f"absrel {value:.4f} misses &gt; 1e3" in (out / "report.html").read_text()

    assert ends(4, gate) == line
    assert ends(2, gate, "pretrain.optimizer.learning_rate=1e-4").endswith(
        "this stage is finished: set it back, --rerun pretrain, or start a new folder"
    )
    assert ends(4, gate, "pretrain.loop.steps=5").startswith("pretrain: gate not reached: absrel is ")
    assert [entry["step"] for entry in logged(out, "pretrain")] == [1, 2, 3, 4, 5]
    assert (out / "set-aside-1" / "model-pretrain").is_dir()
    assert (out / "set-aside-1" / "evaluation" / "pretrain.json").is_file()
    lower = "pretrain.gate={absrel = '< 1e3', train.loss = '> 0'}"
    assert "finetune" in ends(0, lower, "pretrain.loop.steps=5")
    record = json.loads((out / "provenance.json").read_text())["stages"]
    assert all(one["reached"] for one in record["pretrain"]["gate"].values())

    ends(0, "pretrain.loop.steps=5")
    assert json.loads((out / "provenance.json").read_text())["stages"]["pretrain"]["gate"] == {}

    whole = tmp_path / "whole"
    assert main(words(write_run(tmp_path / "whole.toml", whole, clips, STAGES), "pretrain.loop.steps=5")) == 0
    for stage in ("pretrain", "finetune"):
        ours, theirs = (load_file(folder / f"model-{stage}/heads/model.safetensors") for folder in (out, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), stage
    again = ends(2, "pretrain.loop.steps=7")
    assert again == (
        "error: pretrain.loop: pretrain would go on from its last checkpoint, and finetune has begun from the model "
        "that it wrote: set its length back, or add --rerun finetune"
    )


def test_all_ranks_end_at_a_gate_and_after_the_same_step(
    session: Callable[..., dict[str, Any]], write_run: WriteRun, clips: Path, tmp_path: Path
) -> None:
    """A length in hours that have passed by the clock of rank 0 alone, and a training scalar; one line for both ranks.
    """
    out = tmp_path / "out"
    run = write_run(tmp_path / "run.toml", out, clips, STAGES[:2])
    changes = ["backbone.loop={hours=99, log_every=1}", "backbone.gate={train.clean_mse = '< 0'}"]
    late = {"stage": "backbone", "step": 2}
    ended = session("train", run, *words(run, *changes)[2:], ranks=2, late=late)
    assert ended["codes"] == [4, 4], ended["errors"]
    assert [line["step"] for line in logged(out, "backbone")] == [1, 2, 3] and (out / "checkpoint-backbone-3").is_dir()
    value = logged(out, "backbone")[-1]["clean_mse"]
    line = ended["errors"][0].splitlines()[-1]
    what = f"backbone: gate not reached: train.clean_mse is {value:.4g}, asked is < 0; pretrain does not start: "
    assert line.startswith(f"phys4d: {what}") and line.endswith(f"{out}/metrics.jsonl") and not ended["errors"][1]


def test_a_gate_on_a_metric_that_there_will_not_be(refused: Refused, clips: Path) -> None:
    line = refused(clips, 'finetune.gate={warp = "< 1"}')
    assert line.startswith("finetune.gate: warp: no such metric: expected one of absrel, absrel_aligned, absrel_mov")
    assert "warp_l1, " in line and ", train.loss, " in line
    line = refused(clips, 'backbone.gate.warp_l1="< 1"')
    no = "backbone is not evaluated, its model reads no depth and motion"
    assert line.startswith(f"backbone.gate: warp_l1: {no}: it has train.loss, train.clean_mse, train.grad_norm, ")
    line = refused(clips, 'backbone.gate.loss="< 1"')
    assert line.startswith("backbone.gate: loss: no such metric: expected one of train.loss, ")


def test_a_gate_on_a_metric_of_an_evaluation_that_there_is_not(
    write_run: WriteRun, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, STAGES)
    run.write_text(run.read_text().partition("[evaluate]")[0])
    assert main(["train", str(run), "--dry-run", "--set", 'finetune.gate.warp_l1="< 1"']) == 2
    line = "phys4d: error: finetune.gate: warp_l1: is a metric of the evaluation: add a table [evaluate]\n"
    assert capsys.readouterr().err == line


def test_lengths_that_cannot_be(refused: Refused, clips: Path) -> None:
    line = refused(clips, "finetune.loop={samples=8, hours=1.0}")
    assert ": finetune.loop: name one of steps, samples and hours, got " in line
    line = refused(clips, "finetune.loop={hours=1.0}", "finetune.optimizer.decay_fraction=0.5")
    assert line.startswith("finetune.optimizer.decay_fraction: 0.5 with finetune.loop.hours: ")


def test_a_dry_run_prints_the_plan(
    write_run: WriteRun, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ["backbone", "pretrain", "finetune", "reinforce"])
    changes = ["pretrain.loop={samples=7}", "finetune.loop={hours=2.5}"]
    changes.append('finetune.gate={warp_l1 = "<  1", train.loss = "> 0"}')
    assert main(["train", str(run), "--dry-run", *(word for change in changes for word in ("--set", change))]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  backbone: 3 steps of 2 clips, from a new model",
        "  pretrain: 4 steps of 2 clips (7 samples), from model-backbone",
        "  finetune: 2.5 hours of steps of 4 clips, from model-pretrain, gate warp_l1 < 1, train.loss > 0",
        "  reinforce: 2 steps of 4 clips, from model-finetune",
    ]
    assert not (tmp_path / "out").exists()
