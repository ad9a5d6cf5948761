"""The Physics-IQ scorer: the public program's numbers to the last digit, hand-computed scores, and what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from phys4d.benchmarks.physics_iq import CASES, Case, cells, digest, make_benchmark
from phys4d.cli import main
from phys4d.engine.errors import UserError
from phys4d.evaluate.physics_iq.comparison import ViewMeasures, compare
from phys4d.evaluate.physics_iq.layout import VIEWS, View, read_descriptions
from phys4d.evaluate.physics_iq.run import measure, prepare, score_folders, text_table
from phys4d.evaluate.physics_iq.scores import CLOSE, Row, original, summary, verified, verified_score
from phys4d.evaluate.physics_iq.table import csv_table
from phys4d.evaluate.physics_iq.video import frames, motion_masks

EXPECTED = json.loads((Path(__file__).parent / "physics_iq_expected.json").read_text())
SMALL = Case("small", (36, 52), (30, 46), 16, scenarios=1)
QUICK = [case for case in CASES if case.name in ("odd sides", "sides below 64")]


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> tuple[Path, list[Row]]:
    """A folder with `benchmark` and `model`, and what was measured there."""
    folder = tmp_path_factory.mktemp("physics-iq")
    make_benchmark(folder, SMALL)
    return folder, measure(prepare(folder / "model", folder / "benchmark"), 1, lambda done, total: None)


@pytest.fixture
def copied(scored, tmp_path) -> Path:
    shutil.copytree(scored[0], tmp_path / "folder")
    return tmp_path / "folder"


@pytest.mark.parametrize(
    "case", [*QUICK, *(pytest.param(c, marks=pytest.mark.slow) for c in CASES if c not in QUICK)],
    ids=lambda case: case.name.replace(" ", "-"),
)
def test_every_number_is_the_public_programs(case: Case, tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, case)
    found = score_folders([tmp_path / "model"], benchmark, tmp_path / "out", workers=1, say=lambda line: None)
    expected = EXPECTED["cases"][case.name]
    assert [found["model"]["original"], found["model"]["verified"]] == [expected["original"], expected["verified"]]
    ours = digest(cells((tmp_path / "out" / "model.csv").read_text()))
    assert list(ours.items()) == list(expected["table"].items())


def test_the_expected_numbers_say_where_they_are_from() -> None:
    assert len(EXPECTED["public"]) == 40 and EXPECTED["opencv"] == cv2.__version__
    assert set(EXPECTED["cases"]) == {case.name for case in CASES}


def measures(mse: float, iou: float, spatial: float, weighted: float, variance: float = 0.5) -> ViewMeasures:
    """The same in every frame; variances: 0.1 of MSE, `variance` of all intersections over unions."""
    return ViewMeasures(
        {"v1": [mse, mse], "v2": [], "variance": [0.1, 0.1]},
        {"v1": [iou, iou], "v2": [], "variance": [variance, variance]},
        {"v1": spatial, "v2": 0.0, "variance": variance},
        {"v1": weighted, "v2": 0.0, "variance": variance},
    )


def rows_of(*every: ViewMeasures, scenario: str = "trimmed-ball") -> list[Row]:
    """A view of a scenario for each, left, centre, right, and again."""
    nowhere = Path("none.mp4")
    return [
        Row(View(f"{scenario}-{i // 3}", VIEWS[i % 3], ("0001", "0199"), nowhere, nowhere, None, "Optics"), m)
        for i, m in enumerate(every)
    ]


def test_both_scores_of_two_views_by_hand() -> None:
    """Original of means: ((0.25 / 0.5) + (0.35 / 0.5) + (0.45 / 0.5)) / 3 - (0.3 - 0.1) = 0.5. Verified: the first
    view has terms 0.6, 0.8, 1 (1.2, cut) and 0.5, the second 0.4, 0.6, 0.6 and 0.25."""
    rows = rows_of(measures(0.2, 0.3, 0.4, 0.6), measures(0.4, 0.2, 0.3, 0.3))
    assert original(rows) == 50.0
    assert verified(rows[0]) == pytest.approx(
        {"spatiotemporal": 0.6, "spatial": 0.8, "weighted_spatial": 1.0, "mse": 0.5, "score": 2.9 / 4}, abs=1e-6
    )
    assert verified_score(rows) == round(100 * (2.9 + 1.85) / 8, 2)


def test_lists_are_rounded_to_four_decimals_first() -> None:
    """An error below 0.00005 is none: the term of Verified is then 1 and not 0.00001 / 0.00004."""
    rows = rows_of(measures(0.00004, 0.5, 0.5, 0.5))
    rows[0].measures.mse["variance"] = [0.00001, 0.00001]
    assert verified(rows[0])["mse"] == 1.0


def test_the_original_score_ends_at_its_bounds() -> None:
    assert original(rows_of(measures(0.0, 1.0, 1.0, 1.0))) == 100.0
    assert original(rows_of(measures(3.0, 0.1, 0.1, 0.1))) == 0.0


def test_takes_that_move_in_other_places_have_no_original_score_and_a_verified_one() -> None:
    rows = rows_of(measures(0.2, 0.0, 0.0, 0.0, variance=0.0))
    with pytest.raises(UserError, match="both takes of the real videos move in other places"):
        original(rows)
    assert verified_score(rows) == 12.5


def test_scores_of_parts_and_without_the_close_scenarios() -> None:
    good, bad = measures(0.1, 0.5, 0.5, 0.5), measures(0.4, 0.0, 0.0, 0.0)
    rows = [*rows_of(good), Row(rows_of(bad)[0].view, bad)]
    close = View(f"trimmed-{CLOSE[0]}", VIEWS[1], ("0002", "0200"), Path(), Path(), None, "")
    found = summary([rows[0], Row(close, bad)])
    assert found["verified"] == round(100 * (4 + 0.25) / 8, 2)
    assert found["without_close_scenarios"] == {"original": 100.0, "verified": 100.0, "views": 1}
    assert found["physics"] == {"Optics": {"original": 100.0, "verified": 100.0, "views": 1}}
    assert found["views"][VIEWS[1]]["verified"] == 6.25
    assert set(found["scenarios"]) == {"trimmed-ball-0", close.scenario}


def test_take_1_against_itself_is_perfect_and_growing_errors_lower_every_measure(scored, tmp_path: Path) -> None:
    """Generated videos that are the real ones, late by 0, 2, 8 and 24 frames."""
    view = scored[1][0].view
    clips = [_late(view.take_1, frames, tmp_path / f"{frames}.mp4") for frames in (0, 2, 8, 24)]
    found = [compare(view, clip, 16) for clip in clips]
    assert found[0].mse["v1"] == [0.0] * 80 and set(found[0].spatiotemporal_iou["v1"]) == {1.0}
    assert found[0].spatial_iou["v1"] == found[0].weighted_spatial_iou["v1"] == 1.0
    for values in (
        [-np.mean(m.mse["v1"]) for m in found],
        [np.mean(m.spatiotemporal_iou["v1"]) for m in found],
    ):
        assert all(a > b for a, b in pairwise(values)), values
    scores = [verified(Row(view, m))["score"] for m in found]
    assert scores[0] == 1.0 and scores[1] >= scores[2] > scores[3]


def _late(video: Path, frames: int, out: Path) -> Path:
    with av.open(str(video)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return _write(out, [every[0]] * frames + every[: len(every) - frames])


def _write(path: Path, frames: list[np.ndarray], fps: int | Fraction = 16) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv444p", {"qp": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


def test_a_mask_is_what_differs_from_the_running_mean(tmp_path: Path) -> None:
    """A square of 20 pixels that appears in frame 1: the mean takes 30 % of it at once, so that 70 % of 100 is left;
    after 7 frames less than 10 grey levels are (100 * 0.7^7 = 8.2), and the mask is empty."""
    empty = np.full((40, 60, 3), 50, np.uint8)
    with_square = empty.copy()
    with_square[10:30, 20:40] = 150
    masks = list(motion_masks(frames(_write(tmp_path / "square.mp4", [empty] + [with_square] * 9))))
    assert not masks[0].any() and masks[1][12:28, 22:38].all() and not masks[1][:8].any()
    assert [bool(mask.any()) for mask in masks] == [False] + [True] * 6 + [False] * 3


def test_any_number_of_processes_and_any_names_give_the_same_table(scored, copied: Path) -> None:
    for path in list((copied / "model").iterdir()):
        path.rename(path.with_name(f"{path.name[:5]}{99 - int(path.name[:4])}.mp4"))
    rows = measure(prepare(copied / "model", copied / "benchmark"), 2, lambda done, total: None)
    assert csv_table(rows) == csv_table(scored[1])
    assert sorted(path.name for path in (copied / "model").iterdir())[0] == "0001_98.mp4", "nothing is renamed"


def test_the_command_prints_scores_and_writes_table_summary_and_plot(scored, tmp_path: Path, capsys) -> None:
    folder, rows = scored
    out, words = tmp_path / "out", ["evaluate", "--suite", "physics-iq", "--benchmark", str(folder / "benchmark")]
    assert main([*words, "--videos", str(folder / "model"), "--out", str(out), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "no masks of the real videos at 16 frames a second" in printed
    assert f"{verified_score(rows):.2f}" in printed and f"({original(rows):.2f})" in printed
    assert (out / "model.csv").read_text() == csv_table(rows)
    assert json.loads((out / "model.json").read_text())["verified"] == verified_score(rows)
    assert ">model</text>" in (out / "physics-iq-verified.svg").read_text()


def test_several_folders_have_a_mean_and_a_deviation() -> None:
    table = {"without_close_scenarios": None, "original": 1.0}
    text = text_table({"a": {**table, "verified": 30.0}, "b": {**table, "verified": 34.0}}, "verified")
    assert text.splitlines()[-1].split() == ["mean", "of", "2", "32.00", "±", "2.83"]


def _remove(path: Callable[[Path], Path]) -> Callable[[Path], None]:
    return lambda folder: path(folder).unlink()


def _video(folder: Path) -> Path:
    return sorted((folder / "model").iterdir())[1]


def _real(folder: Path, index: int = 0) -> Path:
    return sorted((folder / "benchmark" / "split-videos" / "testing" / "16FPS").iterdir())[index]


def _black(path: Path, frames: int, fps: int | Fraction = 16) -> Path:
    return _write(path, [np.zeros((30, 46, 3), np.uint8)] * frames, fps)


def _stale_masks(folder: Path) -> None:
    masks = folder / "benchmark" / "video-masks" / "real" / "16FPS"
    masks.mkdir(parents=True)
    for index in range(6):
        _black(masks / _real(folder, index).name.replace("testing-videos", "video-masks"), 128)


def _truncated(folder: Path) -> None:
    """A third of the frames, under a container that states all of them."""
    data = bytearray(_real(folder).read_bytes())
    start = data.index(b"mdat")
    size = int.from_bytes(data[start - 4 : start])
    middle = start + size // 3
    data[middle : start - 4 + size] = bytes(start - 4 + size - middle)
    _real(folder).write_bytes(data)


REFUSED = {
    "a missing video": (_remove(_video), r"no video 0002_perspective-center_trimmed-moving-0.mp4 .*3 are needed"),
    "an id twice": (lambda f: shutil.copy(_video(f), f / "model" / "0002_b.mp4"), "has the id 0002, too: keep one"),
    "a name without an id": (lambda f: shutil.copy(_video(f), f / "model" / "clip.mp4"), "does not begin with an id"),
    "an id too many": (lambda f: shutil.copy(_video(f), f / "model" / "0009_b.mp4"), "no real video .* the id 0009"),
    "too short": (lambda f: _black(_video(f), 79), r"0002_.*: 79 frames at 16 a second: expected 80"),
    "too long": (lambda f: _black(_video(f), 85), r"0002_.*: 85 frames at 16 a second: expected 80"),
    "two rates": (lambda f: _black(_video(f), 120, 24), "24 frames a second, and .* has 16: expected one rate"),
    "a broken rate": (
        lambda f: _black(_video(f), 80, Fraction(24000, 1001)), "23.976 frames a second: expected a whole number",
    ),
    "no video at all": (lambda f: _video(f).write_bytes(b""), "0002_.*: OpenCV cannot read it as a video"),
    "a missing take": (_remove(lambda f: _real(f, 4)), "no real video of perspective-center, take 2, at 16"),
    "no videos at this rate": (lambda f: _real(f).parent.rename(_real(f).parents[1] / "30FPS"), "has 30FPS, and the"),
    "masks of eight seconds": (_stale_masks, "video-masks.*: 128 frames at 16 a second: expected 80"),
    "no descriptions": (_remove(lambda f: f / "benchmark" / "descriptions.csv"), "no descriptions.csv there or beside"),
    "another table": (
        lambda f: (f / "benchmark" / "descriptions.csv").write_text("a,b\n1,2\n"),
        r"descriptions.csv, line 2: scenario: expected a name such as",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_one_line_before_anything_is_compared(name: str, copied: Path, capsys) -> None:
    change, line = REFUSED[name]
    change(copied)
    words = ["--videos", str(copied / "model"), "--benchmark", str(copied / "benchmark"), "--workers", "1"]
    assert main(["evaluate", "--suite", "physics-iq", *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("phys4d: error: ")
    assert re.search(line, said), said


def test_a_video_of_81_frames_is_cut_with_a_notice(copied: Path) -> None:
    with av.open(str(_video(copied))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    whole = compare(prepare(copied / "model", copied / "benchmark").pairs[1][0], _video(copied), 16)
    _write(_video(copied), [*frames, np.zeros_like(frames[0])])
    prepared = prepare(copied / "model", copied / "benchmark")
    assert "1 of 3 videos are longer than 5 seconds, and are cut: 0002_" in prepared.notices[0]
    assert compare(*prepared.pairs[1], 16).mse == whole.mse


def test_a_video_that_ends_early_is_named(copied: Path) -> None:
    _truncated(copied)
    prepared = prepare(copied / "model", copied / "benchmark")
    with pytest.raises(UserError, match=r"0001_testing-videos.*: ends after \d+ frames: expected 80"):
        compare(*prepared.pairs[0], 16)


def test_options_that_do_not_go_together(tmp_path: Path, capsys) -> None:
    for words, line in (
        (["--videos", "a"], "--videos: belongs to --suite"),
        (["--suite", "physics-iq", "--videos", "a"], "expected --videos and --benchmark"),
        (["model", "--suite", "physics-iq"], "scores videos, not a model"),
        (["model"], "expected a model folder and --data, or --suite"),
    ):
        assert main(["evaluate", *words]) == 2
        assert line in capsys.readouterr().err


def test_descriptions_are_those_of_the_file(scored) -> None:
    rows = read_descriptions(scored[0] / "benchmark")
    assert [row.id for row in rows] == [f"{number:04d}" for number in range(1, 7)]
    assert (rows[0].scenario, rows[0].take, rows[3].take) == ("trimmed-moving-0", 1, 2)
    assert rows[1].generated == "0002_perspective-center_trimmed-moving-0.mp4" and rows[0].kind == "Solid Mechanics"
