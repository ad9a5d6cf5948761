"""A clip as the data that the page's player reads: rows of video, depth and motion, and what they are coloured by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from phys4d.report.packing import packed_bytes, packed_numbers
from phys4d.report.ranges import Ranges

DEPTH_STEP = 0.001  # of the logarithm: a tenth of a percent
MOTION_STEP = 0.01  # pixels
Arrays = Mapping[str, np.ndarray]
"""video uint8 [T, H, W, 3], depth [T, H, W] in metres, motion [>= 2, T-1, H, W] in pixels."""


@dataclass(frozen=True)
class Row:
    """A row of panels. name: "truth" or that of a model. note: short text below it. views: "generated", "read" -> its
    arrays. The first row of a clip is what others are compared with.
    """

    name: str
    views: Mapping[str, Arrays]
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """What a clip is called and how it was recorded.

    key, caption, category, family: of its dataset. fps: frames a second. intrinsics: [T, 3, 3] in pixels; None: not
    known, and no points are lifted. camera_to_world: [T, 4, 4]; None: the camera stands still.
    """

    key: str
    caption: str
    fps: float
    intrinsics: np.ndarray | None
    camera_to_world: np.ndarray | None
    category: str = ""
    family: str = ""


def clip_data(shown: Shown, rows: Sequence[Row], ranges: Ranges, side: int) -> dict[str, Any]:
    """The JSON content of one clip.

    shown: names and camera.
    rows: the truth first; an array that several rows have is stored once.
    ranges: of the colours, in pixels of the clip.
    side: pixels that the larger side of a frame may have; larger clips are divided by a whole number: the mean of
        colours, every n-th pixel of depth and motion.
    """
    frames, height, width = next(iter(rows[0].views.values()))["video"].shape[:3]
    by = -(-max(height, width) // side)
    arrays: list[dict[str, Any]] = []

    def stored(name: str, array: np.ndarray) -> int:
        packed = _packed(name, array, by)
        if packed not in arrays:
            arrays.append(packed)
        return arrays.index(packed)

    made = [
        {
            "name": row.name,
            "note": row.note,
            "views": {
                view: {name: stored(name, array) for name, array in found.items()} for view, found in row.views.items()
            },
        }
        for row in rows
    ]
    cameras = np.tile(np.eye(4), (frames, 1, 1)) if shown.camera_to_world is None else shown.camera_to_world
    poses = (np.linalg.inv(cameras[0].astype(np.float64)) @ cameras)[:, :3].reshape(frames, 12)
    return {
        "key": shown.key, "caption": shown.caption, "category": shown.category, "family": shown.family,
        "fps": shown.fps, "frames": frames, "height": height // by, "width": width // by, "shrunk": by,
        "intrinsics": None if shown.intrinsics is None else _intrinsics(shown.intrinsics, by),
        "poses": np.round(poses, 6).tolist(),
        "ranges": asdict(ranges.shrunk(by)), "rows": made, "arrays": arrays,
    }  # fmt: skip


def _packed(name: str, array: np.ndarray, by: int) -> dict[str, Any]:
    if name == "video":
        frames, height, width = array.shape[:3]
        cut = array[:, : height // by * by, : width // by * by]
        if by > 1:
            cut = cut.reshape(frames, height // by, by, width // by, by, 3).mean((2, 4)).round().astype(np.uint8)
        return packed_bytes(cut)
    height, width = array.shape[-2:]
    picked = array[..., by // 2 : height // by * by : by, by // 2 : width // by * by : by]
    if name == "depth":
        return packed_numbers(picked, DEPTH_STEP, "log")
    return packed_numbers(picked[:2].swapaxes(0, 1) / by, MOTION_STEP, "linear")


def _intrinsics(matrices: np.ndarray, by: int) -> list[list[float]]:
    """fx, fy, cx, cy of every frame, of the pixels that are kept: number i has its centre at by i + by // 2 + 0.5."""
    off = 0.5 - (by // 2 + 0.5) / by
    found = [(m[0, 0] / by, m[1, 1] / by, m[0, 2] / by + off, m[1, 2] / by + off) for m in matrices.astype(np.float64)]
    return [[round(float(value), 5) for value in one] for one in found]
