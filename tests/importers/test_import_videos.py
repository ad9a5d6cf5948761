"""`phys4d data import`: clips show the right moments of the right part of a video, and say where they come from."""

import hashlib
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from phys4d.cli import main
from phys4d.clips import PSEUDO, Clips
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset, Sample
from phys4d.engine.data.decoders.dali import DaliDecoder
from phys4d.engine.data.decoders.probe import probe
from phys4d.engine.data.tools.verify import verify
from phys4d.models.tiny.words import WordEncoder
from phys4d.teachers.dis import DISFlow
from phys4d.teachers.label import label_dataset

STEP = 6  # of the grey value from one frame of a test video to the next


def counting(frames: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Frame i is grey, of value 20 + STEP * i: uint8 [T, H, W, 3]."""
    values = (20 + STEP * np.arange(frames)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (frames, height, width, 3)).copy()


def numbers(sample: Sample) -> list[int]:
    """Which frames of a counting video a clip shows."""
    return np.rint((sample.video.mean(axis=(1, 2, 3)) - 20) / STEP).astype(int).tolist()


def write_timed(path: Path, frames: np.ndarray, milliseconds: Sequence[int], codec: str = "libx264") -> None:
    """A video whose frames begin at these times; its container by the name's ending."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.options = {"crf": "8"}
        for rgb, at in zip(frames, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def imported(folder: Path, out: Path, *words: object, size: str = "24x32", frames: int = 5) -> ClipDataset:
    command = ["data", "import", folder, "--out", out, "--frames", frames, "--size", size, *words]
    assert main([*map(str, command)]) == 0
    assert verify(out) == []
    return ClipDataset(out)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for videos."""
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def test_frames_are_picked_by_their_times(folder: Path, tmp_path: Path) -> None:
    (folder / "a.mp4").write_bytes(encode_mp4(counting(24), 24))
    assert numbers(imported(folder, tmp_path / "same")[0]) == [0, 1, 2, 3, 4]
    assert numbers(imported(folder, tmp_path / "half", "--fps", 12)[0]) == [0, 2, 4, 6, 8]
    assert numbers(imported(folder, tmp_path / "third", "--fps", 16)[0]) == [0, 1, 3, 4, 6]  # 0, 1.5, 3, 4.5, 6
    clip = imported(folder, tmp_path / "rate", "--fps", 12)
    assert clip.row(0)["fps"] == 12 and clip.meta(0)["fps"] == 12


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_a_variable_frame_rate_is_read_by_time_and_not_by_index(
    folder: Path, tmp_path: Path, name: str, codec: str
) -> None:
    times = [0, 40, 60, 100, 140, 150, 160, 200, 210, 240, 280]  # ms
    write_timed(folder / name, counting(11), times, codec)
    # On the screen at 0, 50, 100, 150 and 200 ms.
    assert numbers(imported(folder, tmp_path / "out", "--fps", 20)[0]) == [0, 1, 3, 5, 7]


def test_whole_milliseconds_of_matroska_do_not_repeat_frames(folder: Path, tmp_path: Path) -> None:
    times = [round(1000 * i / 30) for i in range(20)]  # 33, 67, 100: up to a third of a millisecond off
    write_timed(folder / "a.mkv", counting(20), times)
    sample = imported(folder, tmp_path / "out", "--fps", 30, frames=17)[0]
    assert numbers(sample) == list(range(17)) and sample.meta["provenance"]["repeated_frames"] == 0


def test_a_clip_every_so_many_seconds(folder: Path, tmp_path: Path) -> None:
    (folder / "a.mp4").write_bytes(encode_mp4(counting(26), 20))
    (folder / "b.mp4").write_bytes(encode_mp4(counting(7)[::-1], 20))
    once = imported(folder, tmp_path / "once", "--fps", 20)
    assert [numbers(once[i]) for i in range(len(once))] == [[0, 1, 2, 3, 4], [6, 5, 4, 3, 2]]
    every = imported(folder, tmp_path / "every", "--fps", 20, "--every", 0.5)
    expected = [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14], [20, 21, 22, 23, 24], [6, 5, 4, 3, 2]]
    assert [numbers(every[i]) for i in range(len(every))] == expected
    spans = [(p["file"], p["start_seconds"], p["end_seconds"]) for p in (every.meta(i)["provenance"] for i in range(4))]
    assert spans == [("a.mp4", 0, 0.2), ("a.mp4", 0.5, 0.7), ("a.mp4", 1.0, 1.2), ("b.mp4", 0, 0.2)]


def test_the_centre_is_kept_and_the_assumed_camera_follows_it(folder: Path, tmp_path: Path) -> None:
    frames = np.full((6, 40, 80, 3), 30, np.uint8)
    frames[:, :, 20:60] = 220  # the centre square of 40 x 40
    (folder / "a.mp4").write_bytes(encode_mp4(frames, 24))
    sample = imported(folder, tmp_path / "square", "--fov", 90, size="20x20")[0]
    assert sample.video.shape == (5, 20, 20, 3) and sample.video.mean() > 210
    # Half the source's width is 40 pixels and 45 degrees: 40 pixels of focal length, halved with the picture.
    expected = [[20.0, 0, 10], [0, 20, 10], [0, 0, 1]]
    np.testing.assert_allclose(sample.meta["intrinsics"], [expected] * 5, atol=1e-9)
    assert sample.meta["provenance"]["assumed"]["horizontal_fov_degrees"] == 90
    wide = imported(folder, tmp_path / "wide", size="10x80")[0]
    assert wide.video[0, :, 22:58].mean() > 210
    assert wide.video[0, :, :18].mean() < 40 and wide.video[0, :, 62:].mean() < 40
    focal = 40 / math.tan(math.radians(30))
    np.testing.assert_allclose(wide.meta["intrinsics"][0], [[focal, 0, 40], [0, focal, 5], [0, 0, 1]])
    assert wide.meta["provenance"]["source_box"] == [0, 15, 80, 25]


def rotated(data: bytes) -> bytes:
    """The mp4 with a display matrix that turns it by 90 degrees clockwise, as phones write it."""
    at = data.index(b"tkhd") + 4 + 40
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    return data[:at] + b"".join(value.to_bytes(4, "big", signed=True) for value in matrix) + data[at + 36 :]


def test_a_portrait_recording_is_upright(folder: Path, tmp_path: Path) -> None:
    frames = np.full((6, 32, 48, 3), 30, np.uint8)
    frames[:, :, :12] = 220  # left as stored is the top as shown
    (folder / "a.mp4").write_bytes(rotated(encode_mp4(frames, 24)))
    sample = imported(folder, tmp_path / "out", size="48x32")[0]
    assert sample.video[0, :11].mean() > 210 and sample.video[0, 13:].mean() < 40
    assert sample.meta["provenance"]["source_size"] == [48, 32]


def test_captions_come_from_text_files_or_the_option(folder: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MOV", "deep/c.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encode_mp4(counting(5), 24))
    (folder / "a.txt").write_text("a cup\n  falls off the table\n")
    (folder / "deep" / "c.txt").write_text("ein Ball springt über die Straße", encoding="utf-8-sig")
    dataset = imported(folder, tmp_path / "out", "--caption", "a thing moves")
    captions = [dataset.meta(i)["caption"] for i in range(3)]
    assert captions == ["a cup falls off the table", "a thing moves", "ein Ball springt über die Straße"]
    assert imported(folder, tmp_path / "none").meta(1)["caption"] == ""


def test_the_record_names_the_source(folder: Path, tmp_path: Path) -> None:
    data = encode_mp4(counting(24), 24)
    (folder / "deep").mkdir()
    (folder / "deep" / "a.mp4").write_bytes(data)
    dataset = imported(folder, tmp_path / "out", "--fps", 12)
    meta, row = dataset.meta(0), dataset.row(0)
    assert set(row["members"]) == {"mp4", "json"}
    assert (meta["frames"], meta["height"], meta["width"]) == (5, 24, 32)
    record: dict[str, Any] = meta["provenance"]
    assert record["source"] == "video" and record["file"] == "deep/a.mp4"
    assert record["sha256"] == hashlib.sha256(data).hexdigest() and record["source_fps"] == 24
    assert record["start_seconds"] == 0 and record["end_seconds"] == round(4 / 12, 6)
    assert json.dumps(record)


def test_the_bytes_do_not_depend_on_workers(folder: Path, tmp_path: Path) -> None:
    for i in range(5):
        (folder / f"{i}.mp4").write_bytes(encode_mp4(counting(12 + i), 24))
    contents = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        imported(folder, out, "--every", 0.2, "--workers", workers)
        contents.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert contents[0] == contents[1]


def test_large_frames_are_decoded_in_parts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phys4d.importers.videos import dataset

    (folder / "a.mp4").write_bytes(encode_mp4(counting(30), 24))
    whole = imported(folder, tmp_path / "whole", "--fps", 12, frames=12)
    monkeypatch.setattr(dataset, "_CHUNK", 7 * 24 * 32 * 3)
    parts = imported(folder, tmp_path / "parts", "--fps", 12, frames=12)
    assert numbers(parts[0]) == list(range(0, 24, 2)) and whole.row(0)["members"] == parts.row(0)["members"]


class Floor:
    """A depth teacher that sees a floor straight below, two metres away."""

    scenes: frozenset[str] = frozenset()
    title, depth_kind = "floor", "metric"

    def prepare(self) -> None:
        """Nothing to do."""

    def provenance(self) -> dict[str, Any]:
        return {"name": self.title}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(video.shape[:3], 2, np.float32), np.ones(video.shape[:3], bool)


def test_an_imported_dataset_can_be_shown_labelled_and_read_by_a_stage(folder: Path, tmp_path: Path) -> None:
    (folder / "a.mp4").write_bytes(encode_mp4(counting(5), 24))
    imported(folder, tmp_path / "out")
    assert main(["data", "sheet", str(tmp_path / "out"), "--out", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 0
    depth_teacher: Any = Floor()
    label_dataset(tmp_path / "out", tmp_path / "labelled", depth_teacher, DISFlow())
    clips = Clips(tmp_path / "labelled", PSEUDO, WordEncoder())
    batch = clips.collate([0], [(0,)])
    assert batch.video.shape == (1, 3, 5, 24, 32) and batch.arrays["depth"].unique().tolist() == [2.0]
    provenance = clips.mixture.datasets[0].meta(0)["provenance"]
    assert provenance["file"] == "a.mp4" and provenance["labels"]["depth"]["name"] == "floor"


def test_clips_that_a_gpu_decodes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.mp4").write_bytes(encode_mp4(counting(24), 24))
    clips = imported(folder, tmp_path / "clips", "--pixel-format", "yuv420p", size="48x64")
    found = probe(clips.member(clips.row(0), "mp4"))
    assert found.pixel_format == "yuv420p" and DaliDecoder(torch.device("cuda")).refusal(found) is None
    capsys.readouterr()
    odd = ["--out", str(tmp_path / "odd"), "--frames", "5", "--size", "33x64", "--pixel-format", "yuv420p"]
    for command in (["data", "import", str(folder)], ["simulate", "--clips", "1"]):
        assert main([*command, *odd]) == 2
        assert "pixel_format: yuv420p needs even height and width, got 33x64" in capsys.readouterr().err
