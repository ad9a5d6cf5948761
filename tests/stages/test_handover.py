"""Models are handed from stage to stage by digest; a stage begins again, or from another run, when asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from phys4d.cli import main
from phys4d.engine import integrity
from phys4d.engine.config import load_toml
from phys4d.stages.handover import model_digest
from phys4d.stages.resume import open_run
from phys4d.stages.run_file import RunConfig
from tests.stages.crashes import killed_at

WriteRun = Callable[..., Path]
Train = Callable[..., str]
ALL = ["backbone", "pretrain", "finetune"]
HEADS = Path("heads") / "model.safetensors"
QUICK = ["evaluate.scenes=2", "evaluate.samples=1", "evaluate.shown=1", "evaluate.ranked=1"]


def command(run: Path, *changes: str, options: tuple[str, ...] = ()) -> list[str]:
    return ["train", str(run), *options, *(word for change in (*QUICK, *changes) for word in ("--set", change))]


@pytest.fixture(scope="module")
def finished(write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three stages."""
    folder = tmp_path_factory.mktemp("handover") / "finished"
    assert main(command(write_run(folder.with_suffix(".toml"), folder, clips, ALL))) == 0
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture
def train(
    write_run: WriteRun, clips: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> Train:
    """Resumes it, or begins another run with `init`; the last line, and all lines but progress with `every`."""

    def start(
        code: int, *changes: str, options: tuple[str, ...] = ("--resume",), init: Path | None = None,
        stages: list[str] = ALL, folder: Path = out, every: bool = False,
    ) -> str:  # fmt: skip
        run = write_run(tmp_path / "run.toml", folder, clips, stages, init)
        capsys.readouterr()
        assert main(command(run, *changes, options=options)) == code
        lines = capsys.readouterr().err.splitlines()
        return "\n".join(lines) if every else lines[-1].removeprefix("phys4d: error: ")

    return start


def edit(model: Path) -> None:
    """Other heads, with a manifest that says so: a model that loads."""
    weights = load_file(model / HEADS)
    save_file({name: value + 1e-3 for name, value in weights.items()}, model / HEADS)
    integrity.write_manifest(model, integrity.digests(model))


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"model-{stage}" / HEADS)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_digest_is_that_of_the_weights_and_their_backbone(out: Path, finished: Path) -> None:
    """Not of place and date; a model whose backbone is another one is another model."""
    assert model_digest(out / "model-pretrain") == model_digest(finished / "model-pretrain")
    assert model_digest(out / "model-pretrain") != model_digest(out / "model-finetune")
    edit(out / "model-backbone")
    assert model_digest(out / "model-pretrain") != model_digest(finished / "model-pretrain")


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_model_that_was_edited_after_its_stage_is_refused_by_name(train: Train, out: Path, stage: str) -> None:
    """Before the next stage starts, and when everything is finished."""
    edit(out / f"model-{stage}")
    if stage == "pretrain":
        shutil.rmtree(out / "model-finetune")
        shutil.rmtree(out / "checkpoint-finetune-3")
    what = f"is not the model that {stage} wrote, it was replaced or edited: put that model back, or"
    assert train(2) == f"{out / f'model-{stage}'}: {what} --resume --rerun {stage}"


def test_a_stage_does_not_go_on_from_another_model_than_it_started_from(train: Train, out: Path) -> None:
    """The record of what pretrain wrote is lost with the model, as if it had been trained again elsewhere."""
    record = json.loads((out / "provenance.json").read_text())
    record["stages"]["pretrain"]["model"] = None
    (out / "provenance.json").write_text(json.dumps(record))
    edit(out / "model-pretrain")
    shutil.rmtree(out / "model-finetune")
    what = "is not the model that finetune started from, which was replaced or edited: put that model back, or"
    assert train(2) == f"{out / 'model-pretrain'}: {what} --resume --rerun finetune"
    assert "finetune" in train(0, options=("--resume", "--rerun", "finetune"))


def test_a_model_written_again_from_its_checkpoint_is_the_same(train: Train, out: Path, finished: Path) -> None:
    """The advice about a damaged model: remove it and resume. Stages that started from it are none the worse."""
    manifest = (out / "model-pretrain" / "phys4d.json").read_bytes()
    shutil.rmtree(out / "model-pretrain")
    train(0)
    assert (out / "model-pretrain" / "phys4d.json").read_bytes() != manifest
    assert model_digest(out / "model-pretrain") == model_digest(finished / "model-pretrain")


def test_a_stage_begins_again_with_other_settings_and_all_behind_it(train: Train, out: Path, finished: Path) -> None:
    options = ("--resume", "--rerun", "pretrain")
    before = json.loads((out / "clock.json").read_text())
    before["stages"] |= {"pretrain": 9e9, "finetune": 9e9}
    (out / "clock.json").write_text(json.dumps(before))
    said = train(0, "pretrain.batch=4", "finetune.rank=1", options=options, every=True)
    assert "pretrain begins again, finetune begins again: evaluation/finetune.json, " in said
    assert "resumes with finetune.rank: 2 -> 1: its stage begins with it" in said.splitlines()
    aside = out / "set-aside-1"
    assert sorted(path.name for path in aside.iterdir()) == [
        "checkpoint-finetune-3", "checkpoint-pretrain-3", "evaluation", "metrics.jsonl", "model-finetune",
        "model-pretrain", "report.html", "summary.json", "tensorboard",
    ]  # fmt: skip
    assert same(weights(finished, "backbone"), weights(out, "backbone"))
    for stage in ("pretrain", "finetune"):
        assert not same(weights(finished, stage), weights(out, stage))
        assert model_digest(out / f"model-{stage}") != model_digest(finished / f"model-{stage}")
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3] * 3 and (out / "latest").read_text() == "checkpoint-finetune-3\n"
    kept = [json.loads(line)["stage"] for line in (aside / "metrics.jsonl").read_text().splitlines()]
    assert kept == ["pretrain"] * 3 + ["finetune"] * 3
    seconds = json.loads((out / "clock.json").read_text())
    assert seconds["seconds"] > before["seconds"] and seconds["stages"]["backbone"] == before["stages"]["backbone"]
    assert 0 < seconds["stages"]["pretrain"] < 1e9 and 0 < seconds["stages"]["finetune"] < 1e9

    same_again = train(0, "pretrain.batch=2", "finetune.rank=2", options=options)
    assert "finetune" in same_again and (out / "set-aside-2" / "model-finetune").is_dir()
    for stage in ("pretrain", "finetune"):
        assert same(weights(finished, stage), weights(out, stage))
    assert json.loads((out / "provenance.json").read_text())["stages"].keys() == set(ALL)


def test_a_run_gets_a_further_stage(
    write_run: WriteRun, clips: Path, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table may be new, too; a stage that the run had must stay."""
    out = tmp_path / "out"
    run = write_run(tmp_path / "run.toml", out, clips, ALL)
    whole = run.read_text()
    start, end = whole.index("[finetune]"), whole.index("[reinforce]")
    run.write_text(whole.replace(json.dumps(ALL), json.dumps(ALL[:2])).replace(whole[start:end], ""))
    assert main(command(run)) == 0
    run.write_text(whole)
    assert main(command(run, options=("--resume",))) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("resumes with ")]
    assert [line.split(": ")[0].removeprefix("resumes with ") for line in said] == ["finetune", "stages"]
    assert all(same(weights(finished, stage), weights(out, stage)) for stage in ALL)
    run.write_text(whole.replace(json.dumps(ALL), json.dumps(ALL[:2])))
    assert main(command(run, options=("--resume",))) == 2
    line = f"stages: {out} has the stage 'finetune', too: name it, or start a new folder with init"
    assert capsys.readouterr().err == f"phys4d: error: {line}\n"


def test_what_cannot_begin_again(train: Train, out: Path) -> None:
    names = "backbone, pretrain, finetune"
    assert train(2, options=("--resume", "--rerun", "pre")) == f"--rerun pre: the run has no such stage, it has {names}"
    for options in ((), ("--resume=previous",)):
        line = "--rerun finetune: is for a run that is there: add --resume"
        assert train(2, options=(*options, "--rerun", "finetune")) == line
    assert not (out / "set-aside-1").exists()
    line = f"{out}/config.toml: the run was started with another configuration: seed: 0 -> 1: "
    assert train(2, "seed=1", options=("--resume", "--rerun", "backbone")).startswith(line)
    assert not (out / "set-aside-1").exists()


def test_a_run_begins_from_the_last_finished_stage_of_another(train: Train, out: Path, finished: Path) -> None:
    shutil.rmtree(out / "model-finetune")
    new = out.with_name("new")
    train(0, options=(), init=out, stages=["finetune"], folder=new)
    assert f'init = "{out}/model-pretrain"' in (new / "config.toml").read_text()
    assert same(weights(finished, "finetune"), weights(new, "finetune"))
    start = json.loads((new / "provenance.json").read_text())["stages"]["finetune"]["start"]
    assert start == model_digest(out / "model-pretrain")
    shutil.copytree(finished / "model-finetune", out / "model-finetune")  # the other run has gone on
    train(0, init=out, stages=["finetune"], folder=new)
    shutil.rmtree(new / "model-finetune")
    edit(out / "model-backbone")  # which the model that it began from points to
    line = train(2, init=out, stages=["finetune"], folder=new)
    assert line.startswith(f"{out}/model-pretrain: is not the model that finetune started from, which was replaced")


def test_a_run_that_names_no_model_to_begin_from(train: Train, out: Path) -> None:
    record = json.loads((out / "provenance.json").read_text())
    missed = {"absrel": {"value": 1.0, "condition": "< 0.5", "reached": False}}
    record["stages"]["finetune"]["gate"] = missed
    (out / "provenance.json").write_text(json.dumps(record))

    def refused() -> str:
        return train(2, options=("--dry-run",), init=out, stages=["reinforce"], folder=out.with_name("new"))

    nevertheless = f"to begin from it nevertheless, name its model folder: {out}/model-finetune"
    line = f"init: {out}: its last finished stage, finetune, did not reach its gate (absrel): {nevertheless}"
    assert refused() == line
    for stage in ALL:
        shutil.rmtree(out / f"model-{stage}")
    line = f"init: {out}: is a run of which no stage is finished: finish one, or name a model folder"
    assert refused() == line
    (out / "config.toml").write_text("stages = 3\n")
    assert refused().startswith(f"init: {out}/config.toml: names no stages (")


@pytest.mark.slow
def test_a_kill_while_files_are_set_aside_leaves_a_run_that_goes_on(
    write_run: WriteRun, clips: Path, finished: Path, tmp_path: Path
) -> None:
    """At every third operation on files: the run has then come less far, and the same command begins it again."""
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ALL)
    moment = 0
    while True:
        out = shutil.copytree(finished, tmp_path / "out")
        config = load_toml(run, RunConfig, QUICK)

        def begin_again(config: RunConfig = config) -> None:
            open_run(config, resume="latest", rerun="pretrain").close()

        if not killed_at(moment, begin_again, tmp_path / "none"):  # no file loses data: the copy was never synced
            break
        if moment % 2:  # and else first without --rerun
            assert main(command(run, options=("--resume",))) == 0
            assert all(same(weights(finished, stage), weights(out, stage)) for stage in ALL)
        assert main(command(run, options=("--resume", "--rerun", "pretrain"))) == 0
        assert all(same(weights(finished, stage), weights(out, stage)) for stage in ALL)
        shutil.rmtree(out)
        moment += 3
    assert moment > 20
