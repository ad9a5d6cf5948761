"""Inputs of the comparison with public programs (`public_values.json`): the same numbers on every machine."""

from typing import NamedTuple

import numpy as np

from phys4d.engine.random import normal, uniform


def depths(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted disparity up to scale and shift, and true depth in metres, float64 [frames, 12, 16]."""
    truth = 1 + 4 * uniform((frames, 12, 16), "depth").double().numpy()
    noise = normal((frames, 12, 16), "depth noise").double().numpy()
    return 3 / truth + 0.7 + 0.25 * noise, truth


class Sliding(NamedTuple):
    """A camera that slides 0.1 m a frame past three bands of depth 1, 2 and 4 m, of which points move 4, 2 and 1 px.

    disparity: predicted, float64 [T, H, W]. truth: metres. intrinsics: [3, 3], pixel centres at i + 0.5. poses: camera
    to world, [T, 4, 4].
    """

    disparity: np.ndarray
    truth: np.ndarray
    intrinsics: np.ndarray
    poses: np.ndarray


def sliding() -> Sliding:
    """The same in every call; noise of disparity stays below half a pixel of landing."""
    frames, height, width = 4, 6, 20
    rows = np.repeat([1.0, 2.0, 4.0], height // 3)
    truth = np.broadcast_to(rows[:, None], (frames, height, width)).copy()
    noise = uniform((frames, height, width), "sliding").double().numpy()
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(frames)
    intrinsics = np.array([[40.0, 0, width / 2], [0, 40.0, height / 2], [0, 0, 1]])
    return Sliding(2 / truth * (1 + 0.06 * (noise - 0.5)) + 0.4, truth, intrinsics, poses)


def tracks() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tracks [T, N, 3] metres, their visibility [T, N], true tracks and visibility, and both focal lengths."""
    truth = normal((5, 40, 3), "true tracks").double().numpy() * 0.4 + np.array([0, 0, 3])
    points = 0.8 * (truth + 0.06 * normal((5, 40, 3), "tracks").double().numpy())
    visible, true_visible = (uniform((5, 40), name).numpy() > 0.3 for name in ("visible", "truly visible"))
    return points, visible, truth, true_visible, np.array([110.0, 90.0])


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Moving clouds [T, N, 3] and [T, M, 3], metres: point i of every frame is the same point."""
    x, y = (normal((1, count, 3), f"cloud {count}").double().numpy() for count in (60, 45))
    way = normal((4, 1, 3), "way").double().numpy()
    return x + way, y + 0.9 * way + 0.05 * normal((4, 45, 3), "sway").double().numpy()


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Masks of two objects [T, 2, 24, 24] that move apart from the true ones."""
    row, column = np.mgrid[:24, :24]

    def disc(v: float, u: float, radius: float) -> np.ndarray:
        return (row - v) ** 2 + (column - u) ** 2 < radius**2

    found = [[disc(6 + t, 6 + 2 * t, 4), disc(16, 18 - t, 3 + 0.5 * t)] for t in range(4)]
    true = [[disc(6 + 1.5 * t, 6 + t, 4), disc(17, 18 - 2 * t, 3)] for t in range(4)]
    return np.array(found), np.array(true)
