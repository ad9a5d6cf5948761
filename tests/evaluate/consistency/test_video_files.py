"""Videos of other tools: which frames are taken at which size, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.video_files import fitted_video

SIZE = (5, 16, 24)
META = {"fps": 8}


def grey(levels: list[int], height: int = 16, width: int = 24) -> np.ndarray:
    """Frames of one grey each."""
    return np.array(levels, np.uint8)[:, None, None, None].repeat(height, 1).repeat(width, 2).repeat(3, 3)


def write(path: Path, video: np.ndarray, fps: float) -> Path:
    path.write_bytes(encode_mp4(video, fps, pixel_format="yuv444p"))
    return path


def levels(video: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 10) * 10 for frame in video]


@pytest.mark.parametrize("fps", [8.0, 24.0])
def test_as_many_frames_are_taken_one_by_one_at_any_rate(tmp_path: Path, fps: float) -> None:
    found = fitted_video(write(tmp_path / "a.mp4", grey([20, 60, 100, 140, 180]), fps), SIZE, META)
    assert levels(found.frames) == [20, 60, 100, 140, 180] and found.changed == ""


def test_frames_of_a_faster_video_are_those_at_the_moments_of_the_truth(tmp_path: Path) -> None:
    """24 a second for a truth of 8: every third; the rest of the video is cut."""
    path = write(tmp_path / "a.mp4", grey([*range(20, 220, 10)]), 24.0)
    found = fitted_video(path, SIZE, META)
    assert levels(found.frames) == [20, 50, 80, 110, 140]
    assert found.changed == "5 of 20 frames at 8 a second"


def test_another_size_of_the_same_shape_is_resized(tmp_path: Path) -> None:
    """Left half black, right half white, at three times the size: the edge stays in the middle."""
    large = grey([0] * 5, 48, 72)
    large[:, :, 36:] = 255
    found = fitted_video(write(tmp_path / "a.mp4", large, 8.0), SIZE, META)
    assert found.frames.shape == (*SIZE, 3) and found.changed == "48 x 72 pixels resized to 16 x 24"
    assert found.frames[:, :, :11].max() < 40 and found.frames[:, :, 13:].min() > 215


@pytest.mark.parametrize(
    ("video", "fps", "words"),
    [
        (grey([20] * 4), 8.0, "holds 4 frames, 0.50 s, its truth 5 at 8 a second: generate 0.62 s"),
        (grey([20] * 8), 4.0, "shows 4 frames a second, its truth 8: repeated frames would count as standstill"),
        (grey([20] * 5, 24, 24), 8.0, "is of 24 x 24 pixels, its truth of 16 x 24: crop or pad it"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(tmp_path: Path, video: np.ndarray, fps: float, words: str) -> None:
    path = write(tmp_path / "a.mp4", video, fps)
    with pytest.raises(UserError) as fault:
        fitted_video(path, SIZE, META)
    assert str(fault.value).startswith(f"{path}: {words}") and "\n" not in str(fault.value)


@pytest.mark.parametrize("data", [b"", b"no video at all", None])
def test_no_video_is_one_line(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "a.mp4"
    whole = write(path, grey([20] * 5), 8.0).read_bytes()
    path.write_bytes(whole[:-40] if data is None else data)
    with pytest.raises(UserError) as fault:
        fitted_video(path, SIZE, META)
    assert str(fault.value).startswith(f"{path}: ") and "\n" not in str(fault.value)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.mp4: .*No such file"):
        fitted_video(path, SIZE, META)


def test_a_truth_without_a_rate_takes_videos_of_its_length_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", grey([20] * 10), 8.0)
    with pytest.raises(UserError, match="holds 10 frames, its truth 5: generate as many"):
        fitted_video(path, SIZE, {})
