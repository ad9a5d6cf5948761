"""docs/your-own-clips.md: every command of the page, in its order, at the size of a test."""

import io
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset
from tests.engine.servers import web_server

PAGE = Path(__file__).parents[2] / "docs" / "your-own-clips.md"
# Sizes of the page -> sizes of a test, in commands and run files.
SMALLER = {
    "--frames 49 --size 480x832": "--frames 5 --size 64x64",
    "--frames 13 --size 48x48 --fps 20": "--frames 5 --size 32x32 --fps 8",
    "--clips 120 --seed 3 --size 48 --frames 13 --fps 20": "--clips 2 --seed 3 --size 32 --frames 5 --fps 8",
    "--clips 64 --seed 6 --size 48 --frames 13 --fps 20": "--clips 3 --seed 6 --size 32 --frames 5 --fps 8",
    "--out data/small-labelled --scenes data/scenes": "--out data/small-labelled --scenes data/scenes --steps 3",
    "--every 4": "--every 0.5",
    "--seed 6 --fps 24": "--seed 6 --fps 8",
    "--clips 40": "--clips 3",
    "--scenes 40": "--scenes 2",
    "taps = [9, 19, 29]": "taps = [0, 1, 2]\nheads = { width = 8 }\nsampling_steps = 2",
    "batch = 8": "batch = 2",
    "steps = 2000": "steps = 2",
    "warmup_steps = 50": "warmup_steps = 1",
    "steps = 150": "steps = 2",
    "scenes = 20": "scenes = 2",
    "scenes = 64": "scenes = 2",
    "--frames 49 --size 480x832 --captions": "--frames 5 --size 64x64 --captions",
    "--size 240x416": "--size 32x32",
}


def blocks(letter: str) -> list[tuple[str, str]]:
    """("sh" or "toml", text) of the code blocks of section A or B, smaller."""
    (section,) = re.findall(rf"^## {letter}\. .*?(?=^## )", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    for there, here in SMALLER.items():
        section = section.replace(there, here)
    return re.findall(r"```(sh|toml)\n(.*?)```", section, re.DOTALL)


def follow(letter: str, replaced: Mapping[str, str] = {}) -> list[str]:
    """Writes the run files and runs the commands of a section in the working directory; returns the commands."""
    done = []
    for kind, text in blocks(letter):
        for there, here in replaced.items():
            text = text.replace(there, here)
        if kind == "toml":
            name = text.splitlines()[0].removeprefix("# ")
            Path(name).write_text(text)
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line)
            assert program == "phys4d"
            assert main(words) == 0, line
            done.append(line)
    return done


@pytest.fixture
def my_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the page, with its folder of videos."""
    monkeypatch.chdir(tmp_path)
    canvas = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
    for number, name in enumerate(("cup.mp4", "cars.mov", "park/ball.mkv")):
        file = tmp_path / "my-videos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        frames = np.stack([canvas[t : t + 96, 2 * t + number : 2 * t + number + 128] for t in range(60)])
        file.write_bytes(encode_mp4(frames, 30))
    (tmp_path / "my-videos" / "cup.txt").write_text("a red ball falls")
    return tmp_path


def test_the_sizes_that_the_test_replaces_are_on_the_page() -> None:
    page = PAGE.read_text()
    assert [text for text in SMALLER if text not in page] == []


@pytest.mark.slow
def test_road_a_with_pretrained_weights(
    my_videos: Path, write_released: Callable[..., Path], save_depth_anything: Callable[[Path, str], None]
) -> None:
    write_released(my_videos / "Wan2.2-TI2V-5B-Diffusers")
    save_depth_anything(my_videos / "Depth-Anything-V2-Metric-Indoor-Large-hf", "metric")
    commands = follow("A")
    assert [line.split()[1] for line in commands] == [
        "data", "data", "label", "data", "data", "simulate", "train", "train", "evaluate",
    ]  # fmt: skip
    labelled = ClipDataset(Path("data/labelled"))
    assert len(labelled) == 12
    assert {labelled.meta(i)["caption"] for i in range(12)} == {"", "a red ball falls"}
    assert labelled.meta(0)["provenance"]["labels"]["depth"]["name"] == "Depth Anything"
    summary = json.loads(Path("runs/wan/summary.json").read_text())
    assert list(summary["stages"]) == ["pretrain"]
    assert Path("runs/wan/report.html").stat().st_size > 10_000
    assert json.loads(Path("metrics.json").read_text())["means"].keys() == summary["stages"]["pretrain"].keys()


@pytest.mark.slow
def test_road_b_on_a_laptop(my_videos: Path) -> None:
    commands = follow("B")
    assert [line.split()[1] for line in commands] == [
        "simulate", "simulate", "data", "label", "data", "train", "train",
    ]  # fmt: skip
    assert len(ClipDataset(Path("data/small-labelled"))) == 6
    assert list(json.loads(Path("runs/laptop/summary.json").read_text())["stages"]) == ["pretrain"]
    assert Path("runs/laptop/report.html").stat().st_size > 10_000


def test_section_c_on_other_layouts(my_videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("my-videos", "theirs")
    Path("theirs/cup.txt").unlink()
    rows = [("cup.mp4", "fluid"), ("cars.mov", "rigid"), ("park/ball.mkv", "soft")]
    table = [f"{name},short,a long text of {name},{category}" for name, category in rows]
    heads = {"metadata.csv": "file_name,text,extra,category", "train.csv": "path,text,long_text,category"}
    for file, head in heads.items():
        Path("theirs", file).write_text("\n".join([head, *table]) + "\n")
    Path("shards").mkdir()
    with tarfile.open("shards/000000.tar", "w") as tar:
        for name, data in (("a.mp4", Path("theirs/cup.mp4").read_bytes()), ("a.txt", b"a red ball falls")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with web_server(my_videos / "data" / "theirs") as server:
        commands = follow("C", {"https://example.com/clips": server.url})
    assert [line.split()[2] for line in commands] == [
        "import", "import", "verify", "stats", "repack", "index", "repack", "stats", "verify", "repack",
    ]  # fmt: skip
    made = {name: ClipDataset(Path("data", name)) for name in ("theirs", "long", "copy")}
    captions = {name: dataset.column("caption").to_pylist() for name, dataset in made.items()}
    assert captions["theirs"] == captions["copy"] == ["short"] * 3
    assert captions["long"][0] == "a long text of cars.mov"
    small, tars = ClipDataset(Path("data/small")), ClipDataset(Path("data/from-tars"))
    assert small.size() == (5, 32, 32) and small.column("category").to_pylist() == ["rigid", "fluid"]
    assert tars.meta(0)["caption"] == "a red ball falls" and len(tars.meta(0)["intrinsics"]) == 60
    assert Path("stats.png").stat().st_size > 5000
