"""Depth of a long clip from windows of 32 frames: which frames each window sees, and how the windows are joined.

A window begins 22 frames after the one before it. Its first 10 places hold frames that this one has seen: 2 key frames
far back, which give the scale and shift between both, and 8 frames over which the first window fades into the second.

Source: Chen et al., Video Depth Anything, CVPR 2025, section 3.3; video_depth_anything/video_depth.py.
"""

from collections.abc import Iterable

import numpy as np

from phys4d.teachers.temporal_dpt import WINDOW

_SEEN = (0, 12, 24, 25, 26, 27, 28, 29, 30, 31)  # places of a window that the next one sees again
_KEYS, _FADED = 2, 8
_NEW = WINDOW - len(_SEEN)


def windows(frames: int) -> list[list[int]]:
    """Numbers of the 32 frames that each window sees; after the last frame of the clip, that one again.

    frames: of the clip, at least 1.
    """
    found: list[list[int]] = []
    for start in range(0, frames, _NEW):
        seen = [found[-1][place] for place in _SEEN] if found else [*range(len(_SEEN))]
        found.append([min(frame, frames - 1) for frame in (*seen, *range(start + len(_SEEN), start + WINDOW))])
    return found


def joined(depths: Iterable[np.ndarray], frames: int, aligned: bool) -> np.ndarray:
    """One clip of all windows.

    depths: of the windows of `windows(frames)` in order, each float32 [32, H, W], at least 0.
    frames: of the clip.
    aligned: whether each window has a scale and shift of its own, as affine disparity has; False for metres.

    Returns float32 [frames, H, W], at least 0.
    """
    clip, keys = np.empty((0,)), np.empty((0,))
    for number, depth in enumerate(depths):
        if number == 0:
            clip = np.empty((len(windows(frames)) * _NEW + len(_SEEN), *depth.shape[1:]), np.float32)
            clip[:WINDOW], keys = depth, depth[[*_SEEN[:_KEYS]]]
            continue
        scale, shift = scale_and_shift(depth[:_KEYS], keys) if aligned else (1.0, 0.0)
        depth = np.maximum(depth * np.float32(scale) + np.float32(shift), 0)
        keys = np.stack((keys[0], depth[_SEEN[1]]))
        end = number * _NEW + len(_SEEN)  # of what earlier windows have given
        fade = np.linspace(0, 1, _FADED, dtype=np.float32)[:, None, None]
        faded = slice(end - _FADED, end)
        clip[faded] = clip[faded] * (1 - fade) + depth[_KEYS : len(_SEEN)] * fade
        clip[end : end + _NEW] = depth[len(_SEEN) :]
    return clip[:frames]


def scale_and_shift(values: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """The scale and shift that bring values closest to a target by least squares; 1 and 0 where all values are equal.

    values, target: of one shape.
    """
    values, target = (array.astype(np.float64) for array in (values, target))
    off = values - values.mean()
    spread = (off**2).sum()
    if spread == 0:
        return 1.0, 0.0
    scale = (off * target).sum() / spread
    return float(scale), float(target.mean() - scale * values.mean())
