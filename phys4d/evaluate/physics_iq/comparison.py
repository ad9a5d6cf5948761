"""The four measures of one view: a generated video against both takes of the real one.

Source: physiq/calculate_and_write_metrics_to_csv.py of github.com/google-deepmind/physics-IQ-benchmark. Frames are
resized to a quarter of the sides of take 1 by OpenCV's bilinear filter; a pixel of a mask is set where its first
channel is above 127 (the channels of a grey video are equal). Of n frames:

    MSE_t     mean over pixels and channels of (a_t - b_t)^2, with values from 0 to 1
    ST-IoU_t  |A_t and B_t| / |A_t or B_t|, 1 where both are empty
    S-IoU     the same of masks joined over time
    WS-IoU    sum min(w_A, w_B) / sum max(w_A, w_B), w: the share of frames in which a pixel is set; 1 where both are 0

"Variance" is a measure of take 2 against take 1: what nature itself differs by. Six videos are decoded side by side, so
that one frame of each is in memory.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from phys4d.engine.errors import UserError
from phys4d.evaluate.physics_iq.layout import SECONDS, View
from phys4d.evaluate.physics_iq.video import check_length, frames, mask_video

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
    for path in (view.take_1, view.take_2, *(view.masks or ())):
        check_length(path, fps, generated=False)
    check_length(generated, fps, generated=True)
    with ExitStack() as stack:
        masks = [stack.enter_context(mask_video(generated, fps))]
        real = view.masks or tuple(stack.enter_context(mask_video(take, fps)) for take in (view.take_1, view.take_2))
        videos = [view.take_1, view.take_2, generated, *real, *masks]
        return _measures(videos, SECONDS * fps)


def _measures(videos: list[Path], count: int) -> ViewMeasures:
    """videos: take 1, take 2, generated, and the masks of these three; the first `count` frames of each."""
    found = ViewMeasures()
    weights: list[np.ndarray] = []
    for take_1, take_2, generated, *grey in _in_step(videos, count):
        pixels = [_VALUES[frame] for frame in (take_1, take_2, generated)]
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


def _in_step(videos: list[Path], count: int) -> Iterator[list[np.ndarray]]:
    """The frames of all videos, one after another, resized to a quarter of the sides of the first."""
    decoders = [islice(frames(path), count) for path in videos]
    size: tuple[int, int] | None = None
    for index in range(count):
        together = []
        for path, decoder in zip(videos, decoders, strict=True):
            frame = next(decoder, None)
            if frame is None:
                raise UserError(f"{path}: ends after {index} frames: expected {count}: write or download it again")
            if size is None:
                size = (frame.shape[1] // 4, frame.shape[0] // 4)
                if min(size) < 1:
                    raise UserError(f"{path}: {frame.shape[1]}x{frame.shape[0]} pixels: expected sides of 4 and more")
            together.append(cv2.resize(frame, size))
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
