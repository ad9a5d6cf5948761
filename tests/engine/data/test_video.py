"""Clips as mp4: reproducible, frame-exact from any start, correct in colour, and missing frames are errors."""

import gc
import io
import signal
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.decoders.probe import frame_count
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from tests.engine.data.video_clips import edited, remuxed


def pattern(frames: int, height: int = 32, width: int = 40) -> np.ndarray:
    """A wave moving right, so that every frame differs and colours are smooth."""
    y, x = np.mgrid[:height, :width]
    shown = [
        np.stack([127 + 120 * np.sin((x + 3 * t) / 9), y * 6.0, 250.0 - 4 * x], axis=-1)
        for t in range(frames)
    ]
    return np.clip(np.stack(shown), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, bytes]:
    frames = pattern(33)
    return frames, encode_mp4(frames, 24)


def test_the_same_frames_give_the_same_bytes(clip: tuple[np.ndarray, bytes]) -> None:
    assert encode_mp4(clip[0], 24) == clip[1]


def test_colours_survive(clip: tuple[np.ndarray, bytes]) -> None:
    decoded = PyAVDecoder().decode(clip[1], 0, 33)
    error = np.abs(decoded.astype(int) - clip[0])
    assert decoded.shape == clip[0].shape and decoded.dtype == np.uint8
    assert error.mean() < 1.5 and error.max() <= 16


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (200, 30, 90)])
def test_a_solid_colour_comes_back_by_the_tagged_matrix(colour: tuple[int, int, int]) -> None:
    frames = np.broadcast_to(np.array(colour, np.uint8), (2, 16, 16, 3))
    decoded = PyAVDecoder().decode(encode_mp4(frames, 24), 0, 2)
    assert np.abs(decoded.astype(int) - frames).max() <= 3  # another matrix would be off by up to 29


@pytest.mark.parametrize("start", [0, 1, 7, 11, 12, 13, 24, 30])
def test_every_start_is_exact(clip: tuple[np.ndarray, bytes], start: int) -> None:
    whole = PyAVDecoder().decode(clip[1], 0, 33)
    assert np.array_equal(PyAVDecoder().decode(clip[1], start, 3), whole[start : start + 3])


@pytest.mark.parametrize("fps", [8, 23.976, 29.97, 60])
def test_any_rate_and_odd_sizes(fps: float) -> None:
    frames = pattern(4, height=17, width=23)
    data = encode_mp4(frames, fps)
    assert frame_count(data) == 4
    assert PyAVDecoder().decode(data, 0, 4).shape == (4, 17, 23, 3)


def test_subsampled_colour_needs_even_sizes() -> None:
    assert frame_count(encode_mp4(pattern(3), 24, pixel_format="yuv420p")) == 3
    with pytest.raises(ValueError, match="yuv420p needs even height and width, got 17x40"):
        encode_mp4(pattern(3, height=17), 24, pixel_format="yuv420p")
    with pytest.raises(
        ValueError, match=r"expected RGB frames uint8 \[T, H, W, 3\], got float32 \[2, 4, 4, 3\]"
    ):
        encode_mp4(np.zeros((2, 4, 4, 3), np.float32), 24)


def test_missing_frames_are_never_made_up(clip: tuple[np.ndarray, bytes]) -> None:
    with pytest.raises(ValueError, match=r"holds 33 frames, expected frames 30\.\.34"):
        PyAVDecoder().decode(clip[1], 30, 5)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9])
def test_a_cut_file_is_an_error(clip: tuple[np.ndarray, bytes], kept: float) -> None:
    length = int(kept * len(clip[1])) if isinstance(kept, float) else kept
    with pytest.raises(ValueError, match=r"cannot be decoded|holds|only"):
        PyAVDecoder().decode(clip[1][:length], 0, 33)


def test_what_is_no_video_is_an_error() -> None:
    for data in (b"", b"hello" * 100, np.random.default_rng(0).bytes(5000)):
        with pytest.raises(ValueError, match="cannot be decoded"):
            PyAVDecoder().decode(data, 0, 1)
        with pytest.raises(ValueError, match="cannot be decoded"):
            frame_count(data)


def encoded(frames: np.ndarray, change: Callable[[VideoStream], None] = lambda stream: None, **x264: str) -> bytes:
    """An mp4 by x264 with its own settings, beside those of `encode_mp4`."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv444p"
        stream.codec_context.options = {"x264-params": ":".join(f"{name}={value}" for name, value in x264.items())}
        change(stream)
        for rgb in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    return target.getvalue()


@pytest.mark.parametrize(("first", "shown"), [(0, 33), (5, 28), (5, 10), (14, 19), (0, 7)])
def test_an_edit_list_decides_which_frames_there_are(
    clip: tuple[np.ndarray, bytes], first: int, shown: int
) -> None:
    whole = PyAVDecoder().decode(clip[1], 0, 33)
    cut = edited(clip[1], first=first, shown=shown)
    assert frame_count(cut) == shown
    assert np.array_equal(PyAVDecoder().decode(cut, 0, shown), whole[first : first + shown])
    for start in (1, shown // 2, shown - 1):
        assert np.array_equal(PyAVDecoder().decode(cut, start, 1), whole[first + start : first + start + 1])
    with pytest.raises(ValueError, match=f"holds {shown} frames, expected frames 0..{shown}"):
        PyAVDecoder().decode(cut, 0, shown + 1)


@pytest.mark.parametrize(
    ("turned", "hflip", "vflip", "expected"),
    [
        (90, False, False, lambda frame: np.rot90(frame, 1)),
        (180, False, False, lambda frame: frame[::-1, ::-1]),
        (270, False, False, lambda frame: np.rot90(frame, 3)),
        (0, True, False, lambda frame: frame[:, ::-1]),
        (0, False, True, lambda frame: frame[::-1]),
        (90, True, False, lambda frame: np.rot90(frame, 1)[:, ::-1]),
        (270, True, False, lambda frame: np.rot90(frame, 3)[:, ::-1]),
    ],
)
def test_a_turned_phone_is_turned_back(
    clip: tuple[np.ndarray, bytes],
    turned: int,
    hflip: bool,
    vflip: bool,
    expected: Callable[[np.ndarray], np.ndarray],
) -> None:
    data = remuxed(clip[1], lambda stream: stream.set_display_rotation(turned, hflip=hflip, vflip=vflip))
    stored = PyAVDecoder().decode(clip[1], 0, 3)
    shown = PyAVDecoder().decode(data, 0, 3)
    assert np.array_equal(shown, np.stack([expected(frame) for frame in stored]))


def test_what_would_be_shown_wrong_is_refused(clip: tuple[np.ndarray, bytes]) -> None:
    def wide(stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    def hlg(stream: VideoStream) -> None:
        stream.codec_context.color_trc = 18

    askew = remuxed(clip[1], lambda stream: stream.set_display_rotation(30))
    with pytest.raises(ValueError, match=r"display matrix \[0.866013 .*\], no rotation by 90, 180 or 270 degrees"):
        PyAVDecoder().decode(askew, 0, 33)
    for change, message in (
        (wide, "has pixels of aspect ratio 4/3: encode it again with square pixels"),
        (hlg, r"is HDR \(HLG\): encode it again in standard dynamic range"),
    ):
        data = encoded(pattern(3), change)
        with pytest.raises(ValueError, match=message):
            frame_count(data)
        with pytest.raises(ValueError, match=message):
            PyAVDecoder().decode(data, 0, 3)


@pytest.mark.parametrize("kind", ["open groups of pictures", "fragments"])
def test_every_start_is_exact_where_seeking_goes_too_far(clip: tuple[np.ndarray, bytes], kind: str) -> None:
    if kind == "fragments":
        data = remuxed(clip[1], lambda stream: None, {"movflags": "frag_keyframe+empty_moov"})
    else:
        data = encoded(pattern(33), **{"open-gop": "1", "keyint": "12", "bframes": "3", "b-adapt": "0"})
    whole = PyAVDecoder().decode(data, 0, 33)
    for start in range(33):
        assert np.array_equal(PyAVDecoder().decode(data, start, 1), whole[start : start + 1])


def test_a_lack_of_memory_is_not_the_clips_fault(
    clip: tuple[np.ndarray, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise av.error.MemoryError(12, "Cannot allocate memory")

    monkeypatch.setattr("phys4d.engine.data.decoders.probe.av.open", full)
    for read in (frame_count, lambda data: PyAVDecoder().decode(data, 0, 1)):
        with pytest.raises(MemoryError, match="out of memory while decoding"):
            read(clip[1])


def test_what_decoding_leaves_is_freed_in_a_forked_process(in_child: Callable[[Callable[[], None]], int]) -> None:
    """Threads of the conversion to RGB do not exist there: freeing them would wait for ever, or crash."""
    data = encode_mp4(pattern(2, 480, 832), 24)

    def collect() -> None:
        signal.alarm(20)
        assert gc.collect() > 0

    gc.collect()
    gc.disable()
    try:
        PyAVDecoder().decode(data, 0, 2)
        assert in_child(collect) == 0
    finally:
        gc.enable()
