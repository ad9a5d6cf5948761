"""Clips as mp4: reproducible, frame-exact from any start, faithful in colour, and never silently short."""

import numpy as np
import pytest

from phys4d.engine.data.video import PyAVDecoder, encode_mp4, frame_count


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
