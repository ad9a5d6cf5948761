"""What a started or resumed run refuses: another configuration, checkpoint or LoRA, and a folder that is in use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from phys4d.cli import main
from phys4d.engine.config import load_toml
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.run_folder.run import Run
from phys4d.stages.run_file import RunConfig

Refused = Callable[..., str]
WriteRun = Callable[..., Path]
ALL = ["backbone", "pretrain", "finetune", "reinforce"]
ADAPTER = "adapters/finetune/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def finished(write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run through all stages but the last, without evaluation."""
    folder = tmp_path_factory.mktemp("refusals") / "finished"
    run = write_run(folder.with_suffix(".toml"), folder, clips, ALL[:3])
    assert main(["train", str(run), "--set", "backbone.loop={steps=2, checkpoint_every=1}"]) == 0
    return folder


def test_two_ranks_refuse_with_one_line(
    session: Callable[..., dict[str, Any]], write_run: WriteRun, clips: Path, finished: Path, tmp_path: Path
) -> None:
    """What both ranks see is printed by the first; what only rank 0 can see ends the other too."""
    run = write_run(tmp_path / "run.toml", finished, clips, ALL[:3])
    for words, line in (
        (["--set", "finetune.bach=3"], "--set finetune.bach=3: finetune.bach: unknown key, did you mean 'batch'?"),
        ([], f"{finished}: holds a run already: --resume goes on with it, or choose a new folder"),
    ):
        ended = session("train", run, *words, ranks=2)
        assert ended["codes"] == [2, 2]
        assert [text.splitlines()[-1:] for text in ended["errors"]] == [[f"phys4d: error: {line}"], []]


def test_a_checkpoint_of_another_model_stage_or_lora_rank(
    refused: Refused, finished: Path, clips: Path, tmp_path: Path
) -> None:
    """Such a checkpoint in the place of one's own is refused before the first step, and nothing is overwritten."""
    run, again = tmp_path / "out", ("--resume",)
    two = "backbone.loop={steps=2, checkpoint_every=1}"

    def placed(name: str, source: Path) -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run, ignore=shutil.ignore_patterns("model-*", "checkpoint-*"))
        text = (run / "config.toml").read_text().replace(str(finished), str(run))
        (run / "config.toml").write_text(text)
        shutil.copytree(source, run / name)

    placed("checkpoint-backbone-2", finished / "checkpoint-pretrain-3")
    there = run / "checkpoint-backbone-2"
    line = "was written as checkpoint-pretrain-3: it is of another stage or step: remove it"
    assert refused(clips, two, stages=ALL[:3], words=again) == f"{there}: {line}"

    placed("checkpoint-backbone-2", finished / "checkpoint-backbone-2")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("width = 32", "width = 64"))
    line = refused(clips, two, "model.width=64", stages=ALL[:3], words=again)
    assert line.startswith(f"{there}: does not fit: 'ema.transformer.") and line.endswith(": is it this run's?")
    assert ", this run needs [64" in line

    placed("checkpoint-finetune-3", finished / "checkpoint-finetune-3")
    for stage in ALL[:2]:
        shutil.copytree(finished / f"model-{stage}", run / f"model-{stage}")
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("rank = 2", "rank = 4", 1))
    metrics = (run / "metrics.jsonl").read_bytes()
    line = refused(clips, two, "finetune.rank=4", stages=ALL[:3], words=again)
    there = run / "checkpoint-finetune-3"
    assert line.startswith(f"{there}: does not fit: 'model.transformer.") and "lora_" in line
    assert line.endswith("is [2, 32], this run needs [4, 32]: is it this run's?")
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_a_lora_of_another_rank(refused: Refused, finished: Path, clips: Path, tmp_path: Path) -> None:
    """A configured one is another configuration; in a model's file, one that does not fit names file and key."""
    model = tmp_path / "models" / "model-finetune"
    for stage in ("backbone", "finetune"):
        shutil.copytree(finished / f"model-{stage}", tmp_path / "models" / f"model-{stage}")
    weights = load_file(model / ADAPTER)
    key = next(name for name in weights if "lora_B" in name)
    save_file(weights | {key: weights[key].repeat(1, 2)}, model / ADAPTER)
    line = refused(clips, stages=["reinforce"], init=model)
    what = f"{model / ADAPTER}: does not fit: {key} is [32, 4], this transformer takes [32, 2]"
    assert line == f"{model}: weights do not load ({what}): delete it and resume its run"


def test_what_a_resumed_run_may_not_change(
    refused: Refused, finished: Path, write_clips: WriteRun, clips: Path, tmp_path: Path
) -> None:
    """What its weights depend on, what finished stages would ignore, and what its paths hold."""
    out, two = tmp_path / "out", "backbone.loop={steps=2, checkpoint_every=1}"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "model-finetune")  # as if it had been killed there

    def line(*changes: str) -> str:
        return refused(clips, two, *changes, stages=ALL[:3], words=("--resume",))

    started = f"{out}/config.toml: the run was started with another configuration: "
    end = ": resume with the old one or start a new folder"
    for change, shown in {
        "seed=1": "seed: 0 -> 1", "finetune.rank=4": "finetune.rank: 2 -> 4", "model.width=64": "model.width: 32 -> 64",
        "finetune.weights.warp=0.0": "finetune.weights.warp: 0.5 -> 0.0",
    }.items():  # fmt: skip
        assert line(change) == f"{started}{shown}{end}"
    rate = "backbone.optimizer.learning_rate: 0.001 -> 0.1"
    ignored = f"{rate}: this stage is finished: set it back, --rerun backbone, or start a new folder"
    assert line("backbone.optimizer.learning_rate=0.1") == f"{out}/config.toml: {ignored}"
    other = write_clips(tmp_path / "other", {0: {"json": json.dumps(ClipDataset(clips)[1].meta).encode()}})
    what = f"does not hold what it held at the start of the run ({out}/config.toml)"
    moved = f"finetune.data: {other}: {what}: give the same files or start a new folder"
    assert line(f"finetune.data={other}") == moved
    assert not (out / "model-finetune").exists()


def test_what_a_resumed_run_may_change(
    write_run: WriteRun, finished: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run and data lie elsewhere, a stage goes on at another rate and in bf16, longer, and is measured from now on."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "model-finetune")
    shutil.copytree(clips, elsewhere)
    run = write_run(tmp_path / "run.toml", out, elsewhere, ALL[:3])
    changes = [
        "backbone.loop={steps=2, checkpoint_every=1}", "finetune.loop.steps=4", "finetune.batch=2",
        "finetune.optimizer.learning_rate=1e-4", "finetune.heads_lr_scale=1.0", "precision=bf16",
        "evaluate.samples=1", "pretrain.loop.keep=1",
    ]  # fmt: skip
    assert main(["train", str(run), "--resume", *(word for change in changes for word in ("--set", change))]) == 0
    shown = [text for text in capsys.readouterr().err.splitlines() if text.startswith("resumes with ")]
    keys = {
        "folder", "codec.data", "backbone.data", "pretrain.data", "finetune.data", "reinforce.data",
        "reward_gradient.data", "evaluate.data", "precision",
        "finetune.batch", "finetune.loop.steps", "finetune.optimizer.learning_rate", "finetune.heads_lr_scale",
        "evaluate.samples", "pretrain.loop.keep",
    }  # fmt: skip
    assert {text.removeprefix("resumes with ").split(": ")[0] for text in shown} == keys and len(shown) == len(keys)
    (session,) = json.loads((out / "provenance.json").read_text())["resumed"]
    assert {change["key"] for change in session["changed"]} == keys
    assert (out / "checkpoint-finetune-4").is_dir() and (out / "model-finetune").is_dir()
    assert load_toml(out / "config.toml", RunConfig).finetune.optimizer.learning_rate == 1e-4
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["learning_rate"] == 1e-4


def test_a_folder_that_holds_a_run(refused: Refused, write_run: WriteRun, clips: Path, tmp_path: Path) -> None:
    """Started again without --resume; resumed with another setting; and while another process has it."""
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ALL[:1])
    assert main(["train", str(run)]) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    out = tmp_path / "out"
    line = f"{out}: holds a run already: --resume goes on with it, or choose a new folder"
    assert refused(clips, stages=ALL[:1]) == line
    again = ("--resume",)
    for change, shown in (
        ("finetune.rank=4", "finetune.rank: 2 -> 4"),
        ("reinforce.guidance=2", "reinforce.guidance: 1.0 -> 2.0"),  # the policy is the guided model
    ):
        line = f"{out}/config.toml: the run was started with another configuration: {shown}: resume with the old one"
        assert refused(clips, change, stages=ALL[:1], words=again) == f"{line} or start a new folder"
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
    with Run.create(out, load_toml(run, RunConfig), resume=True):
        line = f"{out}: another process is using this folder: wait or choose another"
        assert refused(clips, stages=ALL[:1], words=again) == line
    assert main(["train", str(run), "--resume"]) == 0
