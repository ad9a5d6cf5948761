"""The four measures of one view: a generated video against both takes of the real one.

Source: physiq/calculate_and_write_metrics_to_csv.py of github.com/google-deepmind/physics-IQ-benchmark. Frames are
resized to a quarter of the sides of take 1 by OpenCV's bilinear filter; a pixel of a mask is set where its first
channel is above 127 (the channels of a grey video are equal). Of n frames:

    MSE_t     mean over pixels and channels of (a_t - b_t)^2, with values from 0 to 1
    ST-IoU_t  |A_t and B_t| / |A_t or B_t|, 1 where both are empty
    S-IoU     the same of masks joined over time
    WS-IoU    sum min(w_A, w_B) / sum max(w_A, w_B), w: the share of frames in which a pixel is set; 1 where both are 0

"Variance" is a measure of take 2 against take 1: what nature itself differs by. No video is decoded twice: of one whose
masks are made, the frames are kept at that quarter; of all others one frame is in memory.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from phys4d.engine.errors import UserError
from phys4d.evaluate.physics_iq.layout import SECONDS, View
from phys4d.evaluate.physics_iq.video import Length, frames, mask_video

_VALUES = (np.arange(256) / 255.0).astype(np.float32)  # of 8-bit pixels; float64 first, as the public program divides


@dataclass
class ViewMeasures:
    """The measures of one view, with names as in the public program's table.

    mse: take -> MSE of each frame against the generated video; "variance": of the takes. spatiotemporal_iou: likewise.
    spatial_iou, weighted_spatial_iou: one number each.
    """

    mse: dict[str, list[float]] = field(default_factory=lambda: {"v1": [], "v2": [], "variance": []})
    spatiotemporal_iou: dict[str, list[float]] = field(default_factory=lambda: {"v1": [], "v2": [], "variance": []})
    spatial_iou: dict[str, float] = field(default_factory=dict)
    weighted_spatial_iou: dict[str, float] = field(default_factory=dict)


def compare(view: View, generated: Path, fps: int) -> ViewMeasures:
    """Measures a generated video of a view.

    view: with its real videos. generated: path of the video. fps: frames a second of all of them.

    Raises UserError where a video has another length, or ends before its container says.
    """
    size = _quarter(view.take_1)
    with ExitStack() as stack:

        def decoded(path: Path) -> _Video:
            return _Video(path, (cv2.resize(frame, size) for frame in frames(path, Length(fps, generated=False))))

        def masked(path: Path) -> tuple[_Video, _Video]:
            """The frames of a video, resized as they are decoded for its masks, and the masks."""
            kept: list[np.ndarray] = []
            video = frames(path, Length(fps, generated=path == generated))
            file = mask_video(path, video, fps, lambda frame: kept.append(cv2.resize(frame, size)))
            made = stack.enter_context(file)
            return _Video(path, iter(kept)), _Video(made, (cv2.resize(frame, size) for frame in frames(made)))

        video, masks = masked(generated)
        takes = [view.take_1, view.take_2]
        if view.masks is None:
            real = [masked(take) for take in takes]
        else:
            real = [(decoded(take), decoded(mask)) for take, mask in zip(takes, view.masks, strict=True)]
        (take_1, mask_1), (take_2, mask_2) = real
        return _measures([take_1, take_2, video, mask_1, mask_2, masks], SECONDS * fps)


@dataclass(frozen=True)
class _Video:
    """Frames at the size at which they are compared, and the file that they are of."""

    path: Path
    frames: Iterator[np.ndarray]


def _quarter(path: Path) -> tuple[int, int]:
    """A quarter of width and height of a video."""
    first = next(frames(path), None)
    if first is None:
        raise UserError(f"{path}: has no frame: write or download it again")
    height, width = first.shape[:2]
    if min(width, height) < 4:
        raise UserError(f"{path}: {width}x{height} pixels: expected sides of 4 and more")
    return width // 4, height // 4


def _measures(videos: list[_Video], count: int) -> ViewMeasures:
    """videos: take 1, take 2, generated, and the masks of these three; the first `count` frames of each."""
    found = ViewMeasures()
    weights: list[np.ndarray] = []
    for take_1, take_2, generated, *grey in _in_step(videos, count):
        pixels = [cv2.LUT(frame, _VALUES) for frame in (take_1, take_2, generated)]
        masks = [frame[..., 0] > 127 for frame in grey]
        for name, a, b in (("v1", 0, 2), ("v2", 1, 2), ("variance", 0, 1)):
            found.mse[name].append(_mse(pixels[a], pixels[b]))
            found.spatiotemporal_iou[name].append(_iou(masks[a], masks[b]))
        if not weights:
            weights = [np.zeros(mask.shape, np.uint16) for mask in masks]
        for weight, mask in zip(weights, masks, strict=True):
            weight += mask
    for name, a, b in (("v1", 0, 2), ("v2", 1, 2), ("variance", 0, 1)):
        found.spatial_iou[name] = _iou(weights[a] > 0, weights[b] > 0)
        found.weighted_spatial_iou[name] = _weighted_iou(weights[a] / count, weights[b] / count)
    return found


def _in_step(videos: list[_Video], count: int) -> Iterator[list[np.ndarray]]:
    """The first frames of all videos, one after another."""
    for index in range(count):
        together = []
        for video in videos:
            frame = next(video.frames, None)
            if frame is None:
                file = video.path
                raise UserError(f"{file}: ends after {index} frames: expected {count}: write or download it again")
            together.append(frame)
        yield together


def _mse(a: np.ndarray, b: np.ndarray) -> float:
    difference = np.subtract(a, b)
    return float(np.mean(np.square(difference, out=difference)))  # a mean in float32, as there


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else float(np.int64(np.count_nonzero(a & b)) / np.int64(union))


def _weighted_iou(a: np.ndarray, b: np.ndarray) -> float:
    """a, b: float64 [h, w], the share of frames in which a pixel is set."""
    least, most = np.minimum(a, b), np.maximum(a, b)
    there = most > 0
    return float(np.sum(least[there]) / np.sum(most[there])) if there.any() else 1.0
