"""The program as its user calls it: the whole demo at a size of seconds, and one clear line for what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.demo import load_recipe
from phys4d.engine.data.dataset import ClipDataset

SMALL = [
    f"simulate.{name}={{families=['fall'], clutter='none', clips={count}, seed={seed}, size=[32, 32], frames=5, fps=8, "
    f"truth={truth}}}"
    for name, count, seed, truth in (
        ("train", 6, 1, "true"), ("video", 4, 2, "false"), ("scenes", 4, 3, "true"), ("test", 4, 4, "true")
    )
] + [
    "teacher.steps=3", "run.model={kind='small', taps=[1, 3, 5], heads={width=8}, sampling_steps=2}",
    "run.stages=['pretrain', 'finetune', 'reinforce']", "run.pretrain.loop.steps=2", "run.finetune.loop.steps=2",
    "run.reinforce.loop.steps=1", "run.reinforce.conditions=1", "run.reinforce.group=2", "run.reinforce.steps=3",
    "run.reinforce.stochastic_steps=2", "run.evaluate.scenes=3", "run.evaluate.samples=1", "run.evaluate.shown=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo of a few tiny clips."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    arguments = [word for change in SMALL for word in ("--set", change)]
    assert main(["demo", "--folder", str(folder), *arguments]) == 0
    return folder


def test_demo_ends_in_a_report_and_a_summary(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    assert list(summary["stages"]) == ["pretrain", "finetune", "reinforce"]
    assert summary["seconds"] > 0 and summary["peak_rss_mb"] > 100 and summary["provenance"]["torch"]
    assert (demo / "report.html").stat().st_size > 10_000


def test_the_demo_from_scratch_is_a_recipe_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, scratch = load_recipe(None, []).run, load_recipe(Path("demo-from-scratch"), []).run
    assert own.init is not None and "backbone" not in own.stages
    assert scratch.init is None and scratch.stages[0] == "backbone"
    assert main(["demo", "--recipe", "demo-from-nothing", "--folder", str(tmp_path / "run")]) == 2
    assert "demo-from-nothing: cannot read the run file: No such file" in capsys.readouterr().err


def test_the_best_median_and_worst_scenes_of_the_last_stage_are_kept_for_every_stage(demo: Path) -> None:
    folder = demo / "evaluation"
    table = json.loads((folder / "reinforce.json").read_text())
    rewards = table["scenes"]["reward"]
    chosen = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    keys = [ClipDataset(demo / "data" / "test").row(i)["key"] for i in chosen]
    assert np.load(folder / "ranked" / "truth.npz")["keys"].tolist() == keys
    assert table["names"]["key"] == [ClipDataset(demo / "data" / "test").row(i)["key"] for i in range(len(rewards))]
    for stage in ("pretrain", "finetune", "reinforce"):
        scenes = json.loads((folder / f"{stage}.json").read_text())["scenes"]["reward"]
        kept = np.load(folder / "ranked" / f"{stage}.npz")["reward"]
        np.testing.assert_allclose(kept, [scenes[i] for i in chosen], rtol=1e-4)  # one sample each: the same clip


def test_pseudo_labels_come_from_clips_that_never_had_truth(demo: Path) -> None:
    video, labelled = (ClipDataset(demo / "data" / name) for name in ("video", "labelled"))
    assert set(video.row(0)["members"]) == {"mp4", "json"}
    assert set(labelled[0].arrays) == {"depth", "motion", "depth_valid", "flow_valid", "dz_valid"}


def test_a_demo_is_not_started_over_another_and_resumes_to_itself(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word for change in SMALL for word in ("--set", change)]
    assert main(["demo", "--folder", str(demo), *arguments]) == 2
    assert "--resume" in capsys.readouterr().err
    before = (demo / "metrics.jsonl").read_bytes()
    assert main(["demo", "--folder", str(demo), *arguments, "--resume"]) == 0
    assert (demo / "metrics.jsonl").read_bytes() == before


def test_evaluate_measures_as_the_run_does(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(demo / "model-finetune"), "--data", str(demo / "data/test"), "--samples", "1"]
    assert main([*command, "--scenes", "3", "--out", str(tmp_path / "table.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["means"] == json.loads((demo / "summary.json").read_text())["stages"]["finetune"]
    (depth,) = (line.split() for line in lines if line.startswith("absrel "))
    assert depth[3] == f"{table['means']['absrel']:.4f}" and lines[-1].startswith("means over 3 scenes")
    assert main([*command, "--scenes", "400"]) == 2
    assert "clips, 400 are to be evaluated: set evaluate.scenes (--scenes) to" in capsys.readouterr().err


def test_verify_passes_whole_data_and_names_what_is_broken(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "verify", str(demo / "data/train")]) == 0
    shutil.copytree(demo / "data/train", tmp_path / "broken")
    shard = next((tmp_path / "broken").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-30_000])
    capsys.readouterr()
    assert main(["data", "verify", str(tmp_path / "broken")]) == 2
    captured = capsys.readouterr()
    assert shard.name in captured.out and "write this dataset again" in captured.err


def test_label_looks_at_its_output_before_it_trains(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    folders = ["--videos", str(demo / "data/video"), "--scenes", str(demo / "data/scenes")]
    assert main(["label", *folders, "--out", str(tmp_path / "gone"), "--steps", "2"]) == 2
    line = f"{tmp_path}/gone is a link to {tmp_path}/unmounted, which is not there: make that first"
    assert capsys.readouterr().err == f"phys4d: error: {tmp_path}/gone: {line}\n"


def test_a_sheet_looks_at_its_output_before_it_reads(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(ClipDataset, "__getitem__", lambda dataset, index: pytest.fail("read before the output is known"))
        assert main(["data", "sheet", str(demo / "data/train"), "--out", str(tmp_path / "folder.png")]) == 2
        assert "folder.png: is a folder: name a file" in capsys.readouterr().err
        assert main(["data", "sheet", str(demo / "data/train"), "--out", str(tmp_path / "x.png"), "--clips", "0"]) == 2
        assert "--clips 0: expected 1 or more" in capsys.readouterr().err
    assert main(["data", "sheet", str(demo / "data/train"), "--out", str(tmp_path / "new/sheet.png")]) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_simulate_and_label_from_the_command_line(tmp_path: Path) -> None:
    for name, seed, extra in (("video", "8", ["--no-truth"]), ("scenes", "9", [])):
        command = ["simulate", "--out", str(tmp_path / name), "--clips", "2", "--size", "32x32"]
        command += ["--frames", "5", "--fps", "8", "--seed", seed, "--workers", "1", "--family", "fall"]
        assert main([*command, *extra]) == 0
    folders = ["--videos", str(tmp_path / "video"), "--scenes", str(tmp_path / "scenes")]
    assert main(["label", *folders, "--out", str(tmp_path / "labelled"), "--steps", "2"]) == 0
    assert main(["data", "verify", str(tmp_path / "labelled")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "--out", "x", "--clips", "2", "--size", "48x"], "--size 48x: expected HEIGHTxWIDTH"),
        (["simulate", "--out", "x", "--clips", "2", "--family", "fluid"], "families"),
        (["simulate", "--out", "x", "--clips", "2", "--camera", "orbit"], "camera"),
        (["simulate", "--out", "x", "--clips", "2", "--looks", "bare"], "looks"),
        (["simulate", "--out", "x", "--clips", "0"], "clips"),
        (["simulate", "--out", "x", "--clips", "1", "--frames", "2", "--workers", "1"], "usable for clip 0: too"),
        (["simulate", "--out", "x", "--clips", "1", "--fps", "7"], "fps"),
        (["train", "nowhere.toml"], "nowhere.toml"),
        (["evaluate", "nowhere", "--data", "x"], "nowhere/phys4d.json: no such file"),
        (["evaluate", "nowhere", "--data", "x", "--out", "."], ".: is a folder: name a file"),
        (["simulate", "--out", "/proc/x", "--clips", "2"], "/proc/x: cannot be written: No such file or directory"),
        (["demo", "--folder", "/proc/x"], "/proc/x: cannot be written: No such file or directory"),
        (["bench", "geometry", "--device", "cpu", "--out", "/proc/x"], "/proc/x: cannot be written"),
        (["bench", "train", "nowhere", "--out", "/proc/x"], "/proc/x: cannot be written"),
        (["data", "verify", "nowhere"], "nowhere"),
        (["demo", "--set", "run.backbon.batch=2"], "run.backbon"),
        (["demo", "--set", "simulate.test.frames=14"], "simulate.test: the recipe: clips of 14 frames: this codec"),
        (["demo", "--set", "run.stages=['finetune']"], "'finetune' starts from the output of 'pretrain'"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_two(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    *before, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("phys4d: error: ") and message in error
    assert all(line.startswith("simulate: 0/") for line in before)  # the progress of what had begun
    assert not any(tmp_path.iterdir())


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "python" in json.dumps(report)
    assert main(["doctor"]) == 0
