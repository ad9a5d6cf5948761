"""Geometry of recorded frames: world points, positions of resting points in the previous frame, depth at any place."""

from dataclasses import dataclass

import numpy as np

from phys4d.importers.replicator.camera import View

EDGE = 1e-9  # tolerance in pixels and barycentric coordinates


@dataclass(frozen=True)
class Frame:
    """Known data of a frame.

    depth: float64 [H, W], metres along the optical axis, 0 if there is no surface.
    instance: int [H, W], 0 if unknown.
    view: its camera.
    """

    depth: np.ndarray
    instance: np.ndarray
    view: View

    @property
    def span(self) -> float:
        """Extent of a pixel in metres at a distance of one metre."""
        return 1 / float(self.view.intrinsics[0, 0])

    def points(self) -> np.ndarray:
        """World points [H, W, 3] seen by the pixel centres; the camera's position where there is no surface."""
        local = self.view.rays(*self.depth.shape) * self.depth[..., None]
        return local @ self.view.camera_to_world[:3, :3].T + self.view.camera_to_world[:3, 3]


@dataclass(frozen=True)
class RestPrediction:
    """Where the points of a frame were in the previous frame if the world was at rest.

    place: [H, W, 2], pixel coordinates.
    depth: [H, W], metres.
    """

    place: np.ndarray
    depth: np.ndarray


def pixel_centres(height: int, width: int) -> np.ndarray:
    """Coordinates of the pixel centres, float64 [H, W, 2]."""
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([column, row], axis=-1)


def predict_at_rest(current: Frame, following: Frame) -> RestPrediction:
    """Where the points of frame `following` were in frame `current` if the world was at rest."""
    pose, k = current.view.camera_to_world, current.view.intrinsics
    local = (following.points() - pose[:3, 3]) @ pose[:3, :3]
    depth = np.where((following.depth > 0) & (local[..., 2] > 0), local[..., 2], 0.0)
    ahead = np.where(depth > 0, depth, 1.0)[..., None]
    return RestPrediction(local[..., :2] / ahead * (k[0, 0], k[1, 1]) + k[:2, 2], depth)


def same_surface(frame: Frame, usable: np.ndarray, axis: int) -> np.ndarray:
    """Whether two neighbours along an axis are on one surface, which at least one adjacent pixel continues.

    Continues: its 1/z agrees with the extrapolation from the two pixels within the extent of a pixel.
    """
    inverse = np.moveaxis(np.divide(1, frame.depth, where=usable, out=np.full(usable.shape, np.nan)), axis, 0)
    instance, seen = np.moveaxis(frame.instance, axis, 0), np.moveaxis(usable, axis, 0)
    bend = np.abs(inverse[2:] - 2 * inverse[1:-1] + inverse[:-2])  # of the pixel in the middle; NaN beside the unknown
    bend = np.where(np.isfinite(bend), bend, np.inf)
    unknown = np.full((1, *bend.shape[1:]), np.inf)
    either = np.minimum(np.concatenate([unknown, bend]), np.concatenate([bend, unknown]))
    pair = seen[:-1] & seen[1:] & (instance[:-1] == instance[1:])
    larger_component = np.where(pair, np.fmax(inverse[:-1], inverse[1:]), 0.0)
    return np.moveaxis(pair & (either <= larger_component * frame.span), 0, axis)


def sample(frame: Frame, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth at places [N, 3, 2], interpolated as 1/z, and whether the four neighbours are on one surface."""
    height, width = frame.depth.shape
    usable = frame.depth > 0
    corner = np.floor(place - 0.5).astype(np.int64)
    column, row = (np.clip(corner[..., i], 0, size - 2) for i, size in enumerate((width, height)))
    share = place - 0.5 - np.stack([column, row], axis=-1)
    inside = (share >= -EDGE).all(axis=-1) & (share <= 1 + EDGE).all(axis=-1)
    across, down = same_surface(frame, usable, 1), same_surface(frame, usable, 0)
    sure = across[row, column] & across[row + 1, column] & down[row, column] & down[row, column + 1] & inside
    inverse = np.divide(1, frame.depth, where=usable, out=np.zeros(usable.shape))
    right, lower = share[..., 0], share[..., 1]
    top = inverse[row, column] * (1 - right) + inverse[row, column + 1] * right
    bottom = inverse[row + 1, column] * (1 - right) + inverse[row + 1, column + 1] * right
    value = top * (1 - lower) + bottom * lower
    return np.divide(1, value, where=sure & (value > 0), out=np.zeros_like(value)), sure


def larger_component(values: np.ndarray) -> np.ndarray:
    """The larger of the two numbers in the last axis; much faster than max() along such a short axis."""
    return np.maximum(values[..., 0], values[..., 1])
