"""`phys4d data import`: what cannot be used costs one line, the rest goes on, and no half dataset looks whole."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.data.tools.verify import verify
from phys4d.importers.videos import dataset
from phys4d.importers.videos.container import check_frames, frame_times, is_cut_off


def moving(frames: int = 30) -> np.ndarray:
    """A texture that moves, uint8 [T, 48, 64, 3]: enough detail that damage shows."""
    canvas = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    return np.stack([canvas[t : t + 48, 2 * t : 2 * t + 64] for t in range(frames)])


def remuxed(data_file: Path, to: Path) -> bytes:
    """The same packets in another container."""
    with av.open(str(data_file)) as source, av.open(str(to), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = to.read_bytes()
    to.unlink()
    return data


def run(folder: Path, out: Path, *words: object) -> int:
    return main([*map(str, ["data", "import", folder, "--out", out, "--frames", 5, "--size", "24x32", *words])])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one sound video, the last by name."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "z.mp4").write_bytes(encode_mp4(moving(), 24))
    return tmp_path / "videos"


def test_what_cannot_be_used_is_one_line_each_and_the_rest_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "z.mp4").read_bytes()
    mkv = remuxed(folder / "z.mp4", tmp_path / "z.mkv")
    flipped = bytearray(whole)
    at = whole.index(b"mdat") + 1500  # within the frames that a clip takes
    flipped[at : at + 400] = b"\xff" * 400
    wrong = {
        "cut.mp4": (whole[: len(whole) * 2 // 3], "is cut off"),
        "cut.mkv": (mkv[: len(mkv) * 2 // 3], "is cut off"),
        "cut-by-one.mp4": (whole[:-1], "is cut off"),
        "empty.mp4": (b"", "cannot be decoded"),
        "garbage.webm": (np.random.default_rng(1).bytes(5000), "cannot be decoded"),
        "text.mov": (b"no video at all\n" * 40, "cannot be decoded"),
        "damaged.mp4": (bytes(flipped), "is damaged at "),
        "short.mp4": (encode_mp4(moving(4), 24), "is too short: 0.12 s from the first to the last of 4 frames, a clip "
                                                 "needs 0.17 s"),
        "one.mp4": (encode_mp4(moving(1), 24), "is too short"),
        "slow.mp4": (encode_mp4(moving(9), 8), "1 of 1 clips left out: the video shows fewer than 24 frames a second"),
        "speech.mp4": (None, "holds no video stream"),
        "caption.mp4": (whole, "its caption caption.txt is not UTF-8 text (byte 2)"),
        "notes.pdf": (b"%PDF", "is no video: expected .mp4, .mov, .webm, .mkv"),
    }  # fmt: skip
    for name, (data, _) in wrong.items():
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "caption.txt").write_bytes(b"a \xff")
    (folder / "gone.mp4").symlink_to(tmp_path / "unmounted.mp4")
    (folder / "._z.mp4").write_bytes(b"what macOS leaves beside a file")
    with av.open(str(folder / "speech.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="flt", layout="mono")
        sound.rate = 48000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert run(folder, tmp_path / "out", "--workers", 2) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    said = {name: [line for line in lines if line.startswith(f"{folder / name}: ")] for name in (*wrong, "gone.mp4")}
    for name, (_, message) in wrong.items():
        assert len(said[name]) == 1 and message in said[name][0], (name, said[name])
    assert "cannot be read: No such file" in said["gone.mp4"][0]
    assert len(lines) == len(wrong) + 1
    left_out = f"{len(lines)} files left out in whole or in part"
    assert last == f"{tmp_path}/out: 1 clips of 1 videos, {left_out}, 1 without a caption"
    assert verify(tmp_path / "out") == [] and ClipDataset(tmp_path / "out").meta(0)["provenance"]["file"] == "z.mp4"


def test_most_damage_is_noticed_and_none_becomes_black_frames(folder: Path) -> None:
    """An mp4 has no checksums, so that some damage within a frame decodes to wrong pixels without any sign."""
    whole = (folder / "z.mp4").read_bytes()
    brightness = PyAVDecoder().decode(whole, 0, 30).mean()
    rng, noticed = np.random.default_rng(3), 0
    fills = (bytes(200), rng.bytes(200), b"\xff" * 200)
    for fill in fills * 8:
        data = bytearray(whole)
        at = int(rng.integers(whole.index(b"mdat") + 1000, whole.index(b"moov") - 300))
        data[at : at + 200] = fill
        try:
            check_frames(bytes(data), frame_times(bytes(data))[-1])
            frames = PyAVDecoder().decode(bytes(data), 0, 30)
        except ValueError:
            noticed += 1
            continue
        assert (frames.mean(axis=(1, 2, 3)) > brightness / 2).all()
    assert noticed >= 12  # of 24; 18 when this was written


def test_a_file_is_cut_off_where_its_header_promises_more(folder: Path, tmp_path: Path) -> None:
    mp4 = (folder / "z.mp4").read_bytes()
    for data in (mp4, remuxed(folder / "z.mp4", tmp_path / "z.mkv"), remuxed(folder / "z.mp4", tmp_path / "z.mov")):
        assert not is_cut_off(data)
        assert all(is_cut_off(data[:-n]) for n in (1, 7, 100, len(data) // 2))
    assert not is_cut_off(b"") and not is_cut_off(b"RIFFxxxxAVI ") and not is_cut_off(mp4 + b"\xff\xfe\xfd\xfc" * 4)


def test_nothing_imported_is_exit_code_two_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "z.mp4").write_bytes(b"not a video")
    assert run(folder, tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{folder}/z.mp4: cannot be decoded")
    assert captured.err.splitlines()[-1].endswith(f"{folder}: not one clip could be made of its 1 files, see above")
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_options_and_folders_are_checked_before_anything_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(dataset, "_clips_of", lambda *arguments: pytest.fail("read before all is known"))
    out = tmp_path / "out"
    start = ["data", "import", folder, "--out", out]
    for words, message in (
        ([*start, "--frames", 1, "--size", 24], "data import: frames: expected a number of at least 2, got 1"),
        ([*start, "--frames", 5, "--size", "24x"], "data import: size: expected HEIGHTxWIDTH in pixels"),
        ([*start, "--frames", 5, "--size", "0x24"], "data import: size: expected HEIGHTxWIDTH in pixels"),
        ([*start, "--frames", 5, "--size", 24, "--fps", 0], "fps: expected a number of at least 0.1, got 0"),
        ([*start, "--frames", 5, "--size", 24, "--fps", "nan"], "data import: fps: expected"),
        ([*start, "--frames", 5, "--size", 24, "--every", 0], "every: expected a number above 0"),
        ([*start, "--frames", 5, "--size", 24, "--fov", 180], "fov: expected a number below 180"),
        ([*start, "--frames", 5, "--size", 24, "--workers", 0], "--workers 0: expected 1 or more"),
        (["data", "import", tmp_path / "gone", "--out", out, "--frames", 5, "--size", 24], "gone: no such folder"),
        (["data", "import", tmp_path / "none", "--out", out, "--frames", 5, "--size", 24], "none: holds no video"),
        (["data", "import", folder / "z.mp4", "--out", out, "--frames", 5, "--size", 24], "is a file: name the folder"),
        (["data", "import", folder, "--out", folder, "--frames", 5, "--size", 24], "exists and is not empty"),
    ):
        assert main([*map(str, words)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("phys4d: error: ") and error.count("\n") == 1, error
    assert not out.exists()


def test_a_kill_halfway_leaves_nothing_that_looks_whole(folder: Path, tmp_path: Path) -> None:
    program = """
import os, signal, sys
from phys4d.engine.data.files.shards import ShardWriter
add = ShardWriter.add
def last(self, *arguments):
    add(self, *arguments)
    if self.kept == 2:
        os.kill(os.getpid(), signal.SIGKILL)
ShardWriter.add = last
from phys4d.cli import main
main(sys.argv[1:])
"""
    words = ["data", "import", folder, "--out", tmp_path / "out", "--frames", 5, "--size", "24x32", "--every", 0.2]
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("index.parquet"))
    assert run(folder, tmp_path / "out", "--every", 0.2) == 0
    assert len(ClipDataset(tmp_path / "out")) == 6 and verify(tmp_path / "out") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


def test_hdr_and_pixels_that_are_not_square_are_refused_by_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_stream(name: str, change: Callable[[av.VideoStream], None]) -> None:
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            change(stream)
            for rgb in moving(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
            container.mux(stream.encode(None))

    def hdr(stream: av.VideoStream) -> None:
        stream.codec_context.color_trc = 16

    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.options = {"aspect": "2:1"}
        stream.codec_context.sample_aspect_ratio = 2

    with_stream("hdr.mp4", hdr)
    with_stream("wide.mp4", wide)
    assert run(folder, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert f"{folder}/hdr.mp4: is HDR (PQ)" in said and f"{folder}/wide.mp4: has pixels of aspect ratio 2" in said
