"""`phys4d label`: each teacher through the command line, and one line for what a teacher does not take."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.teachers.registry import DEPTH_TEACHERS, FLOW_TEACHERS, teacher_spec
from tests.teachers.stand_in_torchvision import stand_in

__all__ = ["stand_in"]

Write = Callable[..., Path]
Save = Callable[[Path, str], None]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a command that must end with exit code 2."""
    capsys.readouterr()
    assert main(["label", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("phys4d: error: ") and error.count("\n") == 1, error
    return error


def test_the_small_teacher_is_the_default(write_clips: Write, tmp_path: Path) -> None:
    videos, scenes = write_clips("videos", 2, 2, truth=False), write_clips("scenes", 1, 2)
    words = ["label", "--videos", str(videos), "--scenes", str(scenes), "--steps", "2", "--seed", "5"]
    assert main([*words, "--out", str(tmp_path / "default"), "--set", "depth.width=4", "--workers", "2"]) == 0
    assert main([*words, "--out", str(tmp_path / "named"), "--teacher", "small", "--set", "depth.width=4"]) == 0
    assert verify(tmp_path / "default") == []
    default, named = (ClipDataset(tmp_path / name) for name in ("default", "named"))
    assert default.row(0)["members"] == named.row(0)["members"]
    record = default.meta(0)["provenance"]["labels"]["depth"]
    assert record["name"] == "small depth network" and len(record["weights_sha256"]) == 64
    assert (record["settings"]["steps"], record["settings"]["seed"], record["settings"]["width"]) == (2, 5, 4)


def test_depth_anything_labels_with_local_weights(
    write_clips: Write, save_depth_anything: Save, tmp_path: Path
) -> None:
    videos = write_clips("videos", 2, 2, truth=False)
    save_depth_anything(tmp_path / "weights", "metric")
    words = ["label", "--videos", str(videos), "--out", str(tmp_path / "out"), "--teacher", "depth-anything"]
    words += ["--weights", str(tmp_path / "weights"), "--set", "depth.batch=2", "--set", "flow.preset=fast"]
    assert main(words) == 0
    assert verify(tmp_path / "out") == []
    sample = ClipDataset(tmp_path / "out")[1]
    assert sample.arrays["depth"].shape == (5, 32, 32) and 0 < sample.arrays["depth"].max() <= 20.01
    labels = sample.meta["provenance"]["labels"]
    assert labels["depth"]["name"] == "Depth Anything" and labels["depth"]["settings"]["batch"] == 2
    assert labels["flow"] == json.loads(json.dumps(labels["flow"])) and labels["flow"]["settings"]["preset"] == "fast"


def test_a_relative_model_writes_disparity(
    write_clips: Write, save_depth_anything: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_depth_anything(tmp_path / "relative", "relative")
    videos, out = write_clips("videos", 2, 1, truth=False), tmp_path / "out"
    words = ["label", "--videos", videos, "--out", out, "--teacher", "depth-anything", "--weights"]
    assert main([*map(str, words), str(tmp_path / "relative")]) == 0
    sample = ClipDataset(out)[0]
    assert sample.meta["depth_kind"] == "affine_disparity" and not sample.arrays["dz_valid"].any()
    assert sample.meta["provenance"]["labels"]["depth"]["settings"]["depth_estimation_type"] == "relative"
    capsys.readouterr()
    assert main(["data", "verify", str(out)]) == 0 and main(["data", "stats", str(out)]) == 0
    assert "kind of depth\n  affine_disparity          1  100.0%" in capsys.readouterr().out


def test_what_a_teacher_does_not_take_is_refused_before_anything_is_written(
    write_clips: Write, save_depth_anything: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, scenes = write_clips("videos", 2, 1, truth=False), write_clips("scenes", 1, 1)
    weights = tmp_path / "weights"
    save_depth_anything(weights, "metric")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.MP4").touch()
    before = sorted(tmp_path.iterdir())
    start = ("--videos", videos, "--out", tmp_path / "out")
    anything = (*start, "--teacher", "depth-anything")
    cases = {
        (*start, "--teacher", "nonesuch"): "--teacher nonesuch: expected one of small, depth-anything",
        (*start, "--scenes", scenes, "--flow", "nonesuch"): "--flow nonesuch: expected one of dis, raft",
        start: "--teacher small: needs --scenes DIR",
        anything: "--teacher depth-anything: needs --weights DIR",
        (*start, "--scenes", scenes, "--weights", weights): "--weights: --teacher small does not take it: it takes "
        "--scenes, depth.seed, depth.steps, depth.batch, depth.learning_rate, depth.width",
        (*anything, "--weights", weights, "--scenes", scenes): "--scenes: --teacher depth-anything does not take it: "
        "it takes --weights, depth.batch",
        (*anything, "--weights", weights, "--steps", 3): "depth.steps: --teacher depth-anything does not take it",
        (*anything, "--weights", weights, "--seed", 3): "depth.seed: --teacher depth-anything does not take it",
        (*anything, "--weights", weights, "--set", "flow.batch=2"): "flow.batch: --flow dis does not take it: it takes "
        "flow.preset",
        (*anything, "--weights", weights, "--set", "batch=2"): "--set batch=2: expected depth.NAME=VALUE or flow.NAME",
        (*anything, "--weights", weights, "--set", "depth.batch=0"): "--teacher depth-anything: batch: expected a "
        "number of at least 1, got 0",
        (*anything, "--weights", weights, "--set", "flow.preset=best"): "--flow dis: preset: expected",
        (*start, "--scenes", scenes, "--steps", 0): "--teacher small: steps: expected a number of at least 1, got 0",
        (*start, "--scenes", scenes, "--workers", 0): "--workers 0: expected 1 or more",
        (*start, "--scenes", tmp_path / "gone"): "gone: no such dataset",
        (*start, "--scenes", videos): "clip clip000000 has no true depth",
        (*start, "--scenes", tmp_path): "no index.parquet in it",
        (*anything, "--weights", tmp_path / "gone"): "gone: no config.json, preprocessor_config.json, "
        "model.safetensors in the folder",
        (*anything, "--weights", scenes): "no config.json",
        ("--videos", tmp_path / "gone", "--out", tmp_path / "out", "--scenes", scenes): "gone: no such dataset",
        ("--videos", tmp_path / "plain", "--out", tmp_path / "out", "--scenes", scenes): "plain: holds video files and "
        "no dataset: import them first, with `phys4d data import",
        ("--videos", videos, "--out", scenes, "--scenes", scenes): "scenes: exists and is not empty",
    }  # fmt: skip
    for words, message in cases.items():
        assert message in refused(capsys, *words), words
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_weights_leave_nothing(
    write_clips: Write, save_depth_anything: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_depth_anything(tmp_path / "weights", "metric")
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"no weights")
    words = ["--videos", write_clips("videos", 2, 1), "--out", tmp_path / "out", "--teacher", "depth-anything"]
    assert "model.safetensors: does not load" in refused(capsys, *words, "--weights", tmp_path / "weights")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos", "weights"]


def test_a_teacher_whose_package_is_absent_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FLOW_TEACHERS, "other", "absent_package.flow")
    expected = r"--flow other: needs the module absent_package: pip install 'phys4d\[teachers\]'"
    with pytest.raises(UserError, match=expected):
        teacher_spec("flow", "other")


def test_every_registered_teacher_describes_itself(stand_in: None) -> None:
    for kind, names in (("depth", DEPTH_TEACHERS), ("flow", FLOW_TEACHERS)):
        for name in names:
            spec = teacher_spec(kind, name)
            assert spec.config.__doc__ and spec.teacher.__doc__ and set(spec.needs) <= {"scenes", "weights"}
