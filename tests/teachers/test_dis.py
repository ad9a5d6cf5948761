"""DIS finds known translations, in pixels of the frames it was given, and knows what it cannot see."""

import cv2
import numpy as np
import pytest

from phys4d.teachers.dis import DISFlow


def texture(height: int, width: int, blur: float) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((height, width)).astype(np.float32), (0, 0), blur)
    scaled = (noise - noise.min()) / (noise.max() - noise.min()) * 255
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("size", [48, 144])
def test_a_translation_is_found_in_pixels_of_the_frame(size: int) -> None:
    canvas = texture(size + 16, size + 16, 2.0)
    video = np.stack([canvas[8 + t : 8 + t + size, 8 - 2 * t : 8 - 2 * t + size] for t in range(4)])
    flow, valid = DISFlow().label(video)
    assert flow.shape == (2, 3, size, size) and flow.dtype == np.float32
    assert valid.shape == (3, size, size) and valid.dtype == bool
    inner = np.s_[:, 6:-6, 6:-6]
    assert np.abs(flow[0][inner] - 2).mean() < 0.15  # the picture moves right by two ...
    assert np.abs(flow[1][inner] + 1).mean() < 0.15  # ... and up by one
    assert valid[inner].mean() > 0.95
    assert not valid[:, :, -1].any()  # the right edge leaves the image


def test_what_gets_covered_is_less_trusted_than_the_rest() -> None:
    background, ball = texture(64, 64, 1.5) // 2, texture(20, 20, 1.5)
    frames = []
    for t in range(2):
        frame = background.copy()
        frame[22:42, 12 + 8 * t : 32 + 8 * t] = 128 + ball // 2
        frames.append(frame)
    _, valid = DISFlow().label(np.stack(frames))
    covered = valid[0, 24:40, 32:40].mean()
    assert covered < 0.5 < valid[0, 24:40, 14:30].mean()
    assert valid[0, :14].mean() > 0.98


def test_the_same_label_from_strided_frames_and_again() -> None:
    video = np.stack([texture(40, 80, 2.0), np.roll(texture(40, 80, 2.0), 1, axis=1)])
    strided = video[:, :, ::2]
    teacher = DISFlow()
    flow, valid = teacher.label(strided)
    again, valid_again = DISFlow().label(strided.copy())
    assert np.array_equal(flow, again) and np.array_equal(valid, valid_again)
    assert flow.shape == (2, 1, 40, 40)
    assert DISFlow().label(video[:1])[0].shape == (2, 0, 40, 80)
