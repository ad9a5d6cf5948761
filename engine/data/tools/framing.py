"""From the frame of a video to another size: the centre, resized, and the intrinsics of an assumed camera."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of a text such as "480x832", or of one number. Raises ValueError."""
    height, cross, width = text.partition("x")
    width = width if cross else height
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) > 0):
        raise ValueError("expected HEIGHTxWIDTH in pixels, such as 480x832")
    return int(height), int(width)


@dataclass(frozen=True)
class Framing:
    """The largest centred part of a source frame that has the clip's aspect ratio, resized to the clip's size.

    source, size: (height, width) in pixels of the video as it is shown, and of the clip.
    """

    source: tuple[int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Clip pixels per source pixel."""
        return max(self.size[0] / self.source[0], self.size[1] / self.source[1])

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge of the part, in source pixels."""
        height, width = (side / self.scale for side in self.size)
        left, top = (self.source[1] - width) / 2, (self.source[0] - height) / 2
        return left, top, left + width, top + height

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the centres of the clip's pixels are in the source: float64 [h] from above and [w] from the left, in
        source pixels, whose centres are at i + 0.5.
        """
        left, top, _, _ = self.box
        rows, columns = (np.arange(side) + 0.5 for side in self.size)
        return top + rows / self.scale, left + columns / self.scale

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] of the source -> uint8 [h, w, 3] of the clip, bicubic, filtered where it is reduced."""
        (height, width), (left, top, right, bottom) = self.source, self.box
        box = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))  # rounding may leave the frame
        image = Image.fromarray(np.ascontiguousarray(frame))
        return np.asarray(image.resize(self.size[::-1], Image.Resampling.BICUBIC, box=box))

    def intrinsics(self, fov: float) -> list[list[float]]:
        """[3, 3] in pixels of the clip, for a camera that looks along the centre and sees `fov` degrees across the
        whole width of the source."""
        focal = self.scale * self.source[1] / 2 / math.tan(math.radians(fov) / 2)
        height, width = self.size
        return [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]
