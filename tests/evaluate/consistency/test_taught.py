"""Videos of any model read by teachers: stand-ins that know a scene exactly, what is left out, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.figures import FIGURES
from phys4d.evaluate.consistency.taught import TRUE_READS, left_out, read_off, score_by_teachers
from phys4d.evaluate.consistency.videos import video_folders
from tests.evaluate.consistency import plates

LEVELS = {plates.NEAR: 200, plates.FAR: 60}  # grey of the plate and of the wall


def shown(depth: np.ndarray) -> np.ndarray:
    """A video whose grey says which surface a pixel shows: uint8 [T, H, W, 3]."""
    grey = np.where(depth < 3, LEVELS[plates.NEAR], LEVELS[plates.FAR]).astype(np.uint8)
    return grey[..., None].repeat(3, -1)


class Depth:
    """Reads depth off the grey, exactly: metres, or disparity of an unknown scale and shift."""

    scenes: frozenset[str] = frozenset()
    title = "grey depth"

    def __init__(self, kind: str = "metric", factor: float = 1.0) -> None:
        self.depth_kind: Any = kind
        self.factor, self.prepared = factor, 0

    def prepare(self) -> None:
        self.prepared += 1

    def provenance(self) -> dict[str, Any]:
        return {"name": self.title, "settings": {"factor": self.factor}}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        depth = np.where(video[..., 0] > 130, plates.NEAR, plates.FAR).astype(np.float32)
        if self.depth_kind != "metric":
            depth = (7 / depth + 0.5).astype(np.float32)
        return depth * np.float32(self.factor), np.ones(depth.shape, bool)


class Flow:
    """Moves the bright pixels of each frame as their centre moves."""

    scenes: frozenset[str] = frozenset()
    title = "centre flow"

    def prepare(self) -> None:
        """Nothing to do."""

    def provenance(self) -> dict[str, Any]:
        return {"name": self.title}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bright = video[..., 0] > 130
        centres = np.array([np.argwhere(frame).mean(axis=0) for frame in bright])
        steps = np.diff(centres, axis=0)[:, ::-1].T  # (du, dv)
        flow = np.where(bright[None, :-1], steps[:, :, None, None], 0).astype(np.float32)
        return flow, np.ones(flow.shape[1:], bool)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one clip in which a plate falls."""
    folder = tmp_path_factory.mktemp("taught") / "data"
    arrays, meta = plates.falling()
    members = {
        "mp4": encode_mp4(shown(arrays["depth"]), plates.FPS, pixel_format="yuv444p"),
        "truth": blob.encode(arrays, blob.QUANTISATION), "json": json.dumps(meta).encode(),
    }  # fmt: skip
    with ShardWriter(folder) as writer:
        writer.add("fall", members, plates.FRAMES, plates.FPS, plates.SIZE, plates.SIZE)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of three models: the true fall at twice the size and rate, one at half of gravity, and none at all."""
    _, meta = plates.falling()
    path = np.array(meta["tracks"]["2"]["position"])
    root, found = tmp_path_factory.mktemp("models"), {}
    for name, share in (("right", 1.0), ("slow", 0.5), ("still", 0.0)):
        moved = path.copy()
        moved[:, 2] = path[0, 2] + share * (path[:, 2] - path[0, 2])
        video = shown(plates.clip([moved], [2.0])[0]["depth"])
        if name == "right":
            video = video.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        found[name] = root / name
        found[name].mkdir()
        rate = plates.FPS * (2 if name == "right" else 1)
        (found[name] / "fall.mp4").write_bytes(encode_mp4(video, rate, pixel_format="yuv444p"))
    return found


def scores(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {row: table["clips"]["fall"]["values"] for row, table in rows.items()}


def test_an_exact_reader_gives_what_the_videos_show(data: Path, videos: dict[str, Path]) -> None:
    said: list[str] = []
    depth = Depth()
    rows = score_by_teachers(video_folders([*videos.values()], data), data, depth, Flow(), workers=2, say=said.append)
    assert list(rows) == ["right", "slow", "still", TRUE_READS] and depth.prepared == 1
    found = scores(rows)
    for row in ("right", TRUE_READS):
        assert found[row]["absrel"] < 1e-3 and found[row]["mask_iou"] > 0.8 and found[row]["fall_error"] < 1
        assert found[row]["epe"] < 0.1 and found[row]["centre_error"] < 0.02
    for name in ("absrel", "epe_moving", "trajectory_error", "fall_error", "chamfer_4d"):
        assert found["right"][name] < found["slow"][name] < found["still"][name], name
    assert found["still"]["fall_error"] == pytest.approx(9.81, abs=0.01)
    assert all(values["warp_l1"] is None and values["warp_l1_moving"] is None for values in found.values())
    assert said == [
        "right: 1 of 1 videos fitted to their truth, the first of them fall: 13 of 26 frames at 24 a second, "
        "96 x 96 pixels resized to 48 x 48",
        "read by grey depth and centre flow; without warp_l1, warp_l1_moving",
    ]
    table = rows["slow"]
    assert table["left_out"] == ["warp_l1", "warp_l1_moving"] and len(table["read_by"]) == 16
    assert table["teachers"]["depth"]["name"] == "grey depth"
    other = score_by_teachers(video_folders([videos["slow"]], data), data, Depth(factor=1.1), Flow(), say=said.append)
    assert other["slow"]["read_by"] != table["read_by"]
    assert scores(other)["slow"]["absrel_scaled"] == pytest.approx(found["slow"]["absrel_scaled"], abs=1e-4)


def test_disparity_of_unknown_scale_and_shift_gives_the_figures_behind_both_alone(
    data: Path, videos: dict[str, Path]
) -> None:
    rows = video_folders([videos["right"], videos["still"]], data)
    found = {
        factor: scores(score_by_teachers(rows, data, Depth("affine_disparity", factor), Flow(), say=lambda line: None))
        for factor in (1.0, 1e3)
    }
    known = {name for name, value in found[1.0]["right"].items() if value is not None}
    assert known == {figure.name for figure in FIGURES} - set(left_out("affine_disparity"))
    assert known == {
        "absrel_aligned", "delta1_aligned", "rmse_aligned", "tae", "epe", "epe_moving", "epe_static", "outliers",
        "outliers_moving", "outliers_static",
    }  # fmt: skip
    assert found[1.0]["right"]["absrel_aligned"] < 0.01 < found[1.0]["still"]["absrel_aligned"]
    for name in known:
        assert found[1e3]["still"][name] == pytest.approx(found[1.0]["still"][name], abs=1e-4), name


def test_motion_in_depth_follows_from_depth_where_the_flow_ends() -> None:
    """A bright pixel comes nearer as the picture brightens; where the flow leaves the picture dz is 0."""
    video = np.full((2, 4, 4, 3), 60, np.uint8)
    video[1] = 200

    class Right(Flow):
        def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            flow = np.zeros((2, 1, 4, 4), np.float32)
            flow[0] = 1
            return flow, np.ones((1, 4, 4), bool)

    read = read_off(video, Depth(), Right())
    assert (read["motion"][2, 0, :, :3] == plates.NEAR - plates.FAR).all() and (read["motion"][2, 0, :, 3] == 0).all()
    assert read["visible"].all() and read["depth_valid"].all()


def test_labels_that_are_wrong_and_clips_that_a_teacher_knows_are_refused(data: Path, videos: dict[str, Path]) -> None:
    class Bad(Depth):
        def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            depth, valid = super().label(video)
            depth[0, 0, 0] = math.nan
            return depth, valid

    class Knows(Depth):
        scenes = frozenset({"scene:fall"})

    rows = video_folders([videos["slow"]], data)
    file = videos["slow"] / "fall.mp4"
    with pytest.raises(UserError, match=f"{file}: what grey depth and centre flow read off it is wrong: .*not finite"):
        score_by_teachers(rows, data, Bad(), Flow(), workers=1)
    with pytest.raises(UserError, match="teacher grey depth learns from it too"):
        score_by_teachers(rows, data, Knows(), Flow(), workers=1)
    with pytest.raises(UserError, match="true-reads: is the row of the true videos"):
        score_by_teachers({TRUE_READS: rows["slow"]}, data, Depth(), Flow())


def test_the_command_names_teachers_as_label_does(
    data: Path, videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = ["evaluate", "--suite", "4d", "--videos", str(videos["slow"]), "--data", str(data)]

    def refused(*more: str) -> str:
        assert main([*words, *more]) == 2
        return capsys.readouterr().err.removeprefix("phys4d: error: ").rstrip()

    taught = ("--reader", "teachers")
    assert refused(*taught).startswith("--teacher small: needs --teacher-scenes DIR")
    assert refused(*taught, "--teacher", "none").startswith("--teacher none: expected one of small")
    assert refused(*taught, "--set", "depth.steps=0", "--teacher-scenes", str(data)).startswith("--teacher small")
    assert refused(*taught, "--seed", "1") == "--seed: does not belong to --reader teachers"
    assert refused("--reader", str(tmp_path), "--flow", "dis") == "--flow: belongs to --suite 4d --reader teachers"
    assert refused("--set", "flow.preset=fast") == "--set: belongs to --suite 4d --reader teachers"
    assert "or teachers" in refused("--reader", str(tmp_path))

    def chosen(*_: Any, **__: Any) -> tuple[Depth, Flow]:
        return Depth(), Flow()

    monkeypatch.setattr("phys4d.teachers.registry.choose", chosen)
    assert main([*words, *taught, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "read by grey depth and centre flow; without warp_l1, warp_l1_moving"
    assert printed[-1].startswith("means over clips (slow 1, true-reads 1)")
    assert json.loads((tmp_path / "out/slow.json").read_text())["teachers"]["flow"] == {"name": "centre flow"}
