"""`phys4d data import` of folders in the layouts of other trainers: each video gets the caption of its row."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset

Layout = Callable[[Path], object]
NAMES = ("a.mp4", "b.mp4", "c.mp4")
CAPTIONS = {"a.mp4": 'a "red", round ball', "b.mp4": "ein Ball über\u2028der Straße", "c.mp4": "a wave"}


@pytest.fixture(scope="module")
def video() -> bytes:
    return encode_mp4(np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8), 24)


@pytest.fixture
def folder(tmp_path: Path, video: bytes) -> Path:
    """A folder of three videos, in a folder `videos` of it."""
    (tmp_path / "mine" / "videos").mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "mine" / "videos" / name).write_bytes(video)
    return tmp_path / "mine"


def run(folder: Path, *words: object) -> int:
    out = folder.parent / "out"
    return main([*map(str, ["data", "import", folder, "--out", out, "--frames", 5, "--size", "16x24", *words])])


def captions(folder: Path) -> dict[str, str]:
    """Captions by the names of the files that the clips came from."""
    dataset = ClipDataset(folder.parent / "out", required=("caption", "intrinsics"))
    metas = [dataset.meta(index) for index in range(len(dataset))]
    return {Path(meta["provenance"]["file"]).name: meta["caption"] for meta in metas}


def write_csv(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([columns, *rows])


def in_csv(name: str, video: str, caption: str) -> Layout:
    return lambda folder: write_csv(
        folder / name, [video, "fps", caption], [[f"videos/{key}", "24", text] for key, text in CAPTIONS.items()]
    )


def in_json(name: str, video: str, caption: str, *, lines: bool = False, data: bool = False) -> Layout:
    rows = [{video: f"videos/{key}", caption: text, "fps": 24} for key, text in CAPTIONS.items()]
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps({"data": rows} if data else rows)
    return lambda folder: (folder / name).write_text(text)


def in_lists(videos: str, texts: str) -> Layout:
    def write(folder: Path) -> None:
        (folder / videos).write_text("\n".join(f"videos/{name}" for name in CAPTIONS) + "\n")
        (folder / texts).write_text("\r\n".join(CAPTIONS.values()) + "\n", encoding="utf-8")

    return write


def beside_in_labels(folder: Path) -> None:
    (folder / "labels").mkdir()
    for name, text in CAPTIONS.items():
        (folder / "labels" / name).with_suffix(".txt").write_text(text, encoding="utf-8")


def beside_the_videos(folder: Path) -> None:
    write_csv(folder / "videos" / "metadata.csv", ["file_name", "text"], [list(item) for item in CAPTIONS.items()])


LAYOUTS = {
    "Hugging Face's videofolder, csv": in_csv("metadata.csv", "file_name", "text"),
    "the same in the folder of the videos": beside_the_videos,
    "videofolder, jsonl": in_json("metadata.jsonl", "file_name", "caption", lines=True),
    "finetrainers, json": in_json("metadata.json", "file_name", "caption"),
    "finetrainers, validation": in_json("captions.json", "video_path", "caption", data=True),
    "finetrainers, two lists": in_lists("videos.txt", "prompt.txt"),
    "CogVideoX, two lists": in_lists("videos.txt", "prompts.txt"),
    "CogVideo, labels": beside_in_labels,
    "DiffSynth": in_csv("metadata.csv", "video", "prompt"),
    "musubi": in_json("captions.jsonl", "video_path", "caption", lines=True),
    "captions by name": lambda folder: (folder / "captions.json").write_text(
        json.dumps({f"videos/{name}": text for name, text in CAPTIONS.items()})
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_video_gets_its_caption(folder: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS[layout](folder)
    assert run(folder) == 0
    assert captions(folder) == {name: " ".join(text.split()) for name, text in CAPTIONS.items()}
    assert capsys.readouterr().out == f"{folder.parent}/out: 3 clips of 3 videos\n"


def test_a_table_of_any_name_with_absolute_paths_and_other_columns(folder: Path) -> None:
    """As Open-Sora's csv, which lies anywhere; a category is kept for choosing clips."""
    table, rows = folder.parent / "train.csv", []
    for name, text in CAPTIONS.items():
        path = str(folder / "videos" / name) if name != "b.mp4" else "videos/b.mp4"
        rows.append([path, "short", text, "fluid" if name == "c.mp4" else ""])
    write_csv(table, ["path", "text", "long_text", "category"], rows)
    assert run(folder, "--captions", table, "--caption-column", "long_text") == 0
    assert captions(folder)["a.mp4"] == CAPTIONS["a.mp4"]
    assert len(ClipDataset(folder.parent / "out", where={"category": ["fluid"]})) == 1


def test_videos_without_a_row_and_rows_without_a_video(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["videos/a.mp4", ""], ["videos/none.mp4", "x"], ["../out.mp4", "x"], ["/etc/passwd", "x"]]
    rows += [["videos/b.mp4", "y"]]
    write_csv(folder / "metadata.csv", ["file_name", "text"], rows)
    (folder / "videos" / "a.txt").write_text("beside it")
    assert run(folder, "--caption", "default") == 0
    assert captions(folder) == {"a.mp4": "beside it", "b.mp4": "y"}
    said = capsys.readouterr().out.splitlines()
    table = folder / "metadata.csv"
    assert said[:3] == [
        f"{table}: row {row}: {name!r} is no video in {folder}"
        for row, name in ((2, "videos/none.mp4"), (3, "../out.mp4"), (4, "/etc/passwd"))
    ]
    assert said[3] == f"{folder}/videos/c.mp4: is not listed in metadata.csv" and "2 clips of 2 videos" in said[4]


TABLE = "file_name,text\nvideos/a.mp4,x\n"
REFUSED = {
    "two tables": ({"metadata.csv": TABLE, "captions.csv": TABLE}, (), "beside it is metadata.csv: name one"),
    "no list of captions": ({"videos.txt": "videos/a.mp4"}, (), "videos.txt: beside it is no list of captions: ex"),
    "lists of other lengths": ({"videos.txt": "videos/a.mp4\nvideos/b.mp4", "prompts.txt": "x\n"}, (),
                               "prompts.txt: has 1 lines, videos.txt has 2: one caption a video"),
    "no column of videos": ({"metadata.csv": "name,text\na,x\n"}, (), "row 1: no column file_name, video, path, vi"),
    "two columns of captions": ({"metadata.csv": "path,text,prompt\na,x,y\n"}, (),
                                "row 1: text and prompt could both be the caption: it has path, text, prompt: name"),
    "an absent column": ({"metadata.csv": TABLE}, ("--caption-column", "long"), "no column long is the caption"),
    "twice": ({"metadata.csv": TABLE + "videos/../videos/a.mp4,y\n"}, (), "row 2: videos/../videos/a.mp4: is listed"),
    "a short row": ({"metadata.csv": TABLE + "videos/b.mp4\n"}, (), "row 2: text: expected text, got None"),
    "no path": ({"metadata.csv": "file_name,text\n,x\n"}, (), "row 1: file_name: expected text, got ''"),
    "a quote that is open": ({"metadata.csv": 'file_name,text\nvideos/a.mp4,"x\n'}, (), "cannot be read as csv: un"),
    "other bytes": ({"metadata.csv": b"file_name,text\nvideos/a.mp4,\xff\n"}, (), "metadata.csv: is not UTF-8 text"),
    "no json": ({"metadata.json": "["}, (), "metadata.json: is no JSON"),
    "a number": ({"metadata.json": "3"}, (), "metadata.json: expected a list of rows"),
    "a row that is none": ({"metadata.jsonl": "3\n"}, (), "row 1: expected an object with a video and a caption"),
    "a caption of captions": ({"captions.json": '[{"file": "videos/a.mp4", "caption": ["x"]}]'}, (),
                              "row 1: caption: expected text, got ['x']"),
    "half a pair": ({"metadata.json": '[{"file": "videos/a.mp4", "caption": "\\ud800"}]'}, (), "half of a surrogate"),
    "deep": ({"metadata.json": "[" * 99 + "]" * 99}, (), "more than 32 deep"),
    "another kind": ({}, ("--captions", "videos/a.mp4"), "expected a .csv, .jsonl or .json, or a list of captions"),
    "an absent file": ({}, ("--captions", "none.csv"), "none.csv: cannot be read: No such file"),
    "a list without videos": ({"p.txt": "x"}, ("--captions", "p.txt"), "p.txt: expected one list of videos beside it"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_cannot_be_used(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, words, fault = REFUSED[name]
    for file, text in files.items():
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.chdir(folder)
    assert run(folder, *words) == 2
    said = capsys.readouterr().err
    assert fault in said and said.count("\n") == 1 and not (folder.parent / "out").exists()
