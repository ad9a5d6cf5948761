"""How a player turns the stored pixels of a video: rotation by 90, 180 or 270 degrees, and mirroring."""

import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from phys4d.engine.data.clip.mp4_boxes import boxes
from phys4d.engine.data.decoders.probe import ffmpeg_errors, limit_frames, opened, video_stream

Matrix = tuple[float, float, float, float]
"""(a, b, c, d) of a display matrix: x' = a x + c y, y' = b x + d y."""


@dataclass(frozen=True)
class Turn:
    """A rotation and mirroring: rows and columns are exchanged if `transposed`, then rows, columns reversed."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether it is no rotation alone."""
        return (self.transposed + self.rows_reversed + self.columns_reversed) % 2 == 1

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of shown frames from that of the stored ones, or the reverse."""
        return stored[::-1] if self.transposed else stored

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """A view of pixels [..., H, W, 3] as they are shown."""
        if self.transposed:
            pixels = pixels.swapaxes(-3, -2)
        return pixels[..., :: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1, :]


STORED = Turn()


def of_matrix(matrix: Matrix) -> Turn:
    """The turn of a display matrix. Raises ValueError for another rotation, a shear or a scale."""
    a, b, c, d = matrix
    if (abs(a), abs(b), abs(c), abs(d)) not in ((1, 0, 0, 1), (0, 1, 1, 0)):
        raise ValueError(f"has the display matrix [{a:g} {c:g}; {b:g} {d:g}], no rotation by 90, 180 or 270 degrees")
    return Turn(a == 0, b + d < 0, a + c < 0)


def of_side_data(data: bytes) -> Turn:
    """The turn of FFmpeg's display matrix: nine int32, of which numbers 1, 2, 4 and 5 are in units of 1 / 65536."""
    a, b, _, c, d = (value / 65536 for value in struct.unpack("5i", data[:20]))
    return of_matrix((a, b, c, d))


def of_mp4(data: bytes) -> Turn | None:
    """The turn of the first video track of an mp4 or mov, from its headers; None for another format.

    It is the product of the track's matrix and the movie's. Raises ValueError as `of_matrix` does.
    """
    movie: Matrix = (1, 0, 0, 1)
    track: Matrix | None = None
    for kind, start, end in boxes(data):
        if kind == b"mvhd":
            movie = _matrix(data, start, 36, end)
        elif kind == b"tkhd":
            track = _matrix(data, start, 40, end)
        elif kind == b"hdlr" and data[start + 8 : start + 12] == b"vide" and track is not None:
            return of_matrix(_product(track, movie))
    return None


def _matrix(data: bytes, start: int, at: int, end: int) -> Matrix:
    at += start + 12 * (data[start : start + 1] == b"\1")  # version 1 has three times of 64 bits
    if at + 20 > end:
        raise ValueError("cannot be decoded: a header of its movie or track is cut off")
    a, b, _, c, d = (value / 65536 for value in struct.unpack(">5i", data[at : at + 20]))
    return a, b, c, d


def _product(first: Matrix, then: Matrix) -> Matrix:
    a, b, c, d = first
    e, f, g, h = then
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def of_file(data: bytes) -> Turn:
    """The turn of a video file: from the headers of an mp4 or mov, of another format from its first frame.

    Raises ValueError as `of_matrix` does, and if there is no frame.
    """
    if (turn := of_mp4(data)) is not None:
        return turn
    with ffmpeg_errors(), opened(data) as container:
        stream = video_stream(container)
        limit_frames(stream)
        for frame in container.decode(stream):
            return of_frame(frame)
    raise ValueError("only 0 of 1 frames could be decoded from frame 0 on")


def of_frame(frame: av.VideoFrame) -> Turn:
    """The turn of a decoded frame, by its display matrix."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return STORED if matrix is None else of_side_data(bytes(matrix))
