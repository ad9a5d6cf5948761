"""`phys4d evaluate --suite 4d` on folders of clips: results, files, and what is refused in one line."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip import blob, video
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.evaluate.consistency.clip import ClipFigures, clip_figures
from phys4d.evaluate.consistency.figures import CURVES, FIGURES
from phys4d.evaluate.consistency.predictions import read_prediction
from phys4d.evaluate.consistency.suite import score_folders
from phys4d.evaluate.consistency.table import Scored, summary, text_table
from phys4d.generate.sampling import Clip
from phys4d.generate.writing import Written, write_clip
from tests.evaluate.consistency import plates

CLIPS = {"a-fall": plates.falling, "b-hit": plates.colliding}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the two clips of plates; the collision is called rope, to have two categories."""
    folder = tmp_path_factory.mktemp("suite") / "data"
    with ShardWriter(folder) as writer:
        for key, make in CLIPS.items():
            arrays, meta = make()
            meta["category"] = "rope" if key == "b-hit" else "rigid"
            frames = np.zeros((plates.FRAMES, plates.SIZE, plates.SIZE, 3), dtype=np.uint8)
            members = {
                "mp4": video.encode_mp4(frames, plates.FPS), "truth": blob.encode(arrays, blob.QUANTISATION),
                "json": json.dumps(meta).encode(),
            }  # fmt: skip
            writer.add(key, members, plates.FRAMES, plates.FPS, plates.SIZE, plates.SIZE)
    return folder


def write(folder: Path, key: str, change: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None) -> Path:
    """A clip as `phys4d generate` writes it, of the true depth and motion of a clip behind a change."""
    arrays, _ = CLIPS[key]()
    change(arrays)
    frames = np.zeros((*arrays["depth"].shape, 3), dtype=np.uint8)
    clip = Clip(frames, arrays["depth"], arrays["motion"])
    write_clip(folder / key, clip, plates.INTRINSICS, {"prompt": key}, Written(plates.FPS, False, 0))
    return folder / key


def nearer(arrays: dict[str, np.ndarray]) -> None:
    arrays["depth"] = arrays["depth"] * np.float32(0.9)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Folders of two models: one generates both truths, one only the fall, 10 % too near."""
    for key in CLIPS:
        write(tmp_path / "good", key)
    write(tmp_path / "near", "a-fall", nearer)
    return [tmp_path / "good", tmp_path / "near"]


def test_rows_are_those_of_the_clips_by_themselves(data: Path, models: list[Path]) -> None:
    said: list[str] = []
    rows = score_folders(models, data, baselines=True, workers=1, say=said.append)
    assert list(rows) == ["good", "near", "still", "true"]
    assert said[0] == f"{models[1]}: 1 of the 2 clips of {data}" and said[-1] == "2 of 2 clips"
    assert [len(row["clips"]) for row in rows.values()] == [2, 1, 2, 2]
    means = {name: row["figures"] for name, row in rows.items()}
    assert means["good"]["absrel"]["mean"] < 1e-4 and means["near"]["absrel"]["mean"] == pytest.approx(0.1, abs=1e-4)
    overlaps = {row: table["mask_iou"]["mean"] for row, table in means.items()}
    assert overlaps["true"] == 1 and overlaps["good"] > 0.95 and overlaps["still"] < 0.6
    assert means["still"]["epe_moving"]["mean"] > 1 > means["good"]["epe_moving"]["mean"]
    assert means["still"]["fall_error"] == pytest.approx({"mean": 9.81, "low": None, "high": None, "clips": 1})
    arrays, meta = plates.falling()
    truth = {name: blob.decode(blob.encode({name: a}, {}))[name] for name, a in arrays.items()}
    alone = clip_figures(read_prediction(models[1] / "a-fall", arrays["depth"].shape), truth, meta)
    for name, value in alone.values.items():
        found = rows["near"]["clips"]["a-fall"]["values"][name]
        assert (found is None and math.isnan(value)) or found == pytest.approx(value, rel=1e-3, abs=1e-4), name
    categories = rows["good"]["categories"]
    assert list(categories) == ["rigid", "rope"]
    assert categories["rigid"]["fall_error"]["clips"] == 1 and categories["rope"]["fall_error"]["clips"] == 0


def test_results_do_not_depend_on_processes_or_on_the_order_of_folders(data: Path, models: list[Path]) -> None:
    alone = score_folders(models, data, workers=1, say=lambda line: None)
    shared = score_folders(models[::-1], data, workers=2, say=lambda line: None)
    assert alone == shared


def test_files_and_table(data: Path, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--suite", "4d", *map(str, models), "--data", str(data), "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "means over clips (good 2, near 1) with 95 % bootstrap intervals"
    assert any(line.startswith("absrel  ") and line.endswith("  0.1") for line in printed)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["4d.csv", "good.json", "near.json"]
    table = json.loads((tmp_path / "out/good.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert (table["suite"], table["row"], list(table["curves"])) == ("4d", "good", list(CURVES))
    assert all(len(curve) == plates.FRAMES for curve in table["curves"].values())
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out/4d.csv").read_text())))
    assert [(line["row"], line["clip"], line["category"]) for line in lines] == [
        ("good", "a-fall", "rigid"), ("good", "b-hit", "rope"), ("near", "a-fall", "rigid"),
    ]  # fmt: skip
    assert lines[1]["fall_error"] == "" and float(lines[0]["absrel"]) == table["clips"]["a-fall"]["values"]["absrel"]


def test_a_clip_folder_by_itself_is_one_clip(data: Path, models: list[Path]) -> None:
    rows = score_folders([models[0] / "a-fall"], data, workers=1, say=lambda line: None)
    assert list(rows) == ["a-fall"] and list(rows["a-fall"]["clips"]) == ["a-fall"]


def figures(value: float, curve: list[float]) -> ClipFigures:
    return ClipFigures({figure.name: value for figure in FIGURES}, dict.fromkeys(CURVES, curve))


def test_means_are_over_clips_in_any_order_and_curves_over_frames() -> None:
    clips = [Scored("b", "rope", figures(3.0, [1.0])), Scored("a", "", figures(1.0, [3.0, 5.0])),
             Scored("c", "rope", figures(math.nan, [math.nan]))]  # fmt: skip
    table = summary(clips)
    assert table == summary(clips[::-1]) and list(table["clips"]) == ["a", "b", "c"]
    assert table["figures"]["epe"]["mean"] == 2 and table["figures"]["epe"]["clips"] == 2
    assert list(table["categories"]) == ["rope"] and table["categories"]["rope"]["epe"]["mean"] == 3
    assert [entry["mean"] for entry in table["curves"]["epe"]] == [2, 5]
    assert table["clips"]["c"]["values"]["epe"] is None
    assert summary([])["figures"]["epe"] == {"mean": None, "low": None, "high": None, "clips": 0}
    assert "epe " not in text_table({"none": summary([])})


def refused(capsys: pytest.CaptureFixture[str], *words: str, workers: bool = True) -> str:
    """The one line of a refused command."""
    assert main(["evaluate", "--suite", "4d", *(["--workers", "1"] if workers else []), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("phys4d: error: ").rstrip()


def test_clips_that_cannot_be_scored_are_refused(
    data: Path, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = models[0] / "a-fall"

    def line() -> str:
        return refused(capsys, str(models[0]), "--data", str(data))

    def card(**values: Any) -> None:
        meta = json.loads((clip / "clip.json").read_text())
        (clip / "clip.json").write_text(json.dumps(meta | values))

    card(frames=9)
    sizes = "is a clip of (9, 48, 48) (frames, height, width), its truth has (13, 48, 48)"
    assert line() == f"{clip}: {sizes}: generate at the truth's size"
    card(frames=13)
    whole = (clip / "clip.truth").read_bytes()
    arrays, _ = plates.falling()
    arrays["depth"][3, 4, :5] = np.nan
    (clip / "clip.truth").write_bytes(blob.encode(arrays))
    assert line() == f"{clip}/clip.truth: array 'depth': 5 values are not finite: generate {clip} again"
    arrays["depth"][3, 4, :5] = -1
    (clip / "clip.truth").write_bytes(blob.encode(arrays))
    assert "array 'depth': 5 values are negative" in line()
    (clip / "clip.truth").write_bytes(blob.encode({"depth": arrays["depth"]}))
    assert "holds no array 'motion'" in line()
    (clip / "clip.truth").write_bytes(whole[:-9])
    assert line().startswith(f"{clip}/clip.truth: ")
    (clip / "clip.truth").unlink()
    without = "the model of this clip reads no depth and motion, which are scored"
    assert line() == f"{clip}/clip.truth: is missing: {without}"
    (clip / "clip.json").write_text("{")
    assert line().startswith(f"{clip}/clip.json: is damaged (")
    clip.rename(models[0] / "ball")
    no_truth = f"{models[0]}/ball: {data} has no clip of that name (its first is a-fall)"
    assert line() == f"{no_truth}: name each clip by the key of its truth"
    (tmp_path / "empty").mkdir()
    assert refused(capsys, str(tmp_path / "empty"), "--data", str(data)).startswith(f"{tmp_path}/empty: no clips: ")
    assert "rows are named by their folders" in refused(capsys, str(models[0]), str(models[0]), "--data", str(data))


def test_truth_that_cannot_be_scored_against_is_refused(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dataset(name: str, frames: int, **values: Any) -> Path:
        arrays, meta = plates.falling()
        cut = {key: array[:, : frames - 1] if key == "motion" else array for key, array in arrays.items()}
        cut = {key: a[: frames - (len(a) == plates.FRAMES - 1)] if key != "motion" else a for key, a in cut.items()}
        meta |= {"frames": frames, "intrinsics": meta["intrinsics"][:frames]} | values
        meta["camera_to_world"] = meta["camera_to_world"][:frames]
        cut["dz_valid"] = np.zeros_like(cut["dz_valid"])
        black = video.encode_mp4(np.zeros((frames, plates.SIZE, plates.SIZE, 3), dtype=np.uint8), plates.FPS)
        members = {"mp4": black, "truth": blob.encode(cut), "json": json.dumps(meta).encode()}
        with ShardWriter(tmp_path / name) as writer:
            writer.add("a-fall", members, frames, plates.FPS, plates.SIZE, plates.SIZE)
        return tmp_path / name

    one = dataset("one", 1)
    line = refused(capsys, str(models[1]), "--data", str(one))
    assert line == f"{one}, clip a-fall: has 1 frames: motion needs at least 2"
    for name, values in (
        ("short", {"tracks": {"2": {"position": [[0, 0, 1]] * 5, "quaternion": [[1, 0, 0, 0]] * 5}}}),
        ("words", {"objects": ["a ball"]}), ("heavy", {"physics": {"gravity": "g"}}), ("lists", {"tracks": [1]}),
    ):  # fmt: skip
        other = dataset(name, plates.FRAMES, **values)
        line = refused(capsys, str(models[1]), "--data", str(other))
        assert line.startswith(f"{other}, clip a-fall: objects, tracks or physics are not as `phys4d simulate`"), name
    affine = dataset("affine", plates.FRAMES, depth_kind="affine_disparity")
    assert "the suite needs metres" in refused(capsys, str(models[1]), "--data", str(affine))


def test_words_that_do_not_belong_together_are_refused(
    data: Path, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "phys4d.json").write_text("{}")
    both = refused(capsys, str(model), str(models[0]), "--data", str(data))
    assert both == f"{models[0]}: is no model, and {model} is one: score models and folders of clips one by one"
    alone = refused(capsys, str(model), "--data", str(data), "--baselines", workers=False)
    assert alone == "--baselines: belongs to folders of clips"
    assert refused(capsys, str(model), "--data", str(data)) == "--workers: belongs to folders of clips"
    assert refused(capsys, str(models[0]), "--data", str(data), "--on-bad", "skip") == "--on-bad: belongs to models"
    assert refused(capsys, str(models[0]), "--data", str(data), "--seed", "0") == "--seed: belongs to models"
    assert "and --data" in refused(capsys, str(models[0]))
    assert "belongs to --suite physics-iq" in refused(capsys, str(models[0]), "--benchmark", "x")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text('stages = ["pretrain"]')
    assert "has no finished stage" in refused(capsys, str(run), "--data", str(data), workers=False)
