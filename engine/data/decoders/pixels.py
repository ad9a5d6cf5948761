"""From decoded frames to those that a model takes: another size, another range of numbers."""

import numpy as np
from PIL import Image

Size = tuple[int, int]


def centred(source: Size, size: Size) -> tuple[float, float, float, float]:
    """Top, left, bottom and right edge, in pixels of the source, of its largest centred part with the aspect ratio of
    `size`; both sizes are (height, width).
    """
    scale = max(size[0] / source[0], size[1] / source[1])
    height, width = min(size[0] / scale, source[0]), min(size[1] / scale, source[1])
    top, left = (source[0] - height) / 2, (source[1] - width) / 2
    return top, left, top + height, left + width


def resized(frames: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [T, size[0], size[1], 3]; a triangle filter, as wide as the reduction."""
    source: Size = (frames.shape[1], frames.shape[2])
    if source == size:
        return frames
    top, left, bottom, right = centred(source, size)
    out = np.empty((len(frames), *size, 3), np.uint8)
    for t, frame in enumerate(frames):
        part = Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        out[t] = np.asarray(part)
    return out


def normalised(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] -> fp32 [3, T, H, W] in [-1, 1]: level / 127.5 - 1."""
    moved = np.ascontiguousarray(frames.transpose(3, 0, 1, 2), np.float32)
    moved /= np.float32(127.5)
    moved -= np.float32(1)
    return moved
