"""The part of a static camera's image that changes over a clip: what moves, and the shadows that it may cast."""

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera

Region = tuple[int, int, int, int]  # pixels: left, top, right, bottom; the last two are outside

EDGE = 3.0  # pixels around it that samples, derivatives and rounded vertices may reach
LOWEST_SUN = 0.2  # sine of the sun's height below which shadows may fall anywhere
NEAREST = 0.1  # metres from the camera, below which something may cover the whole image


class ChangedRegion:
    """Bounds of what may differ from the first frame.

    meshes, camera: of the clip.
    sun: [3], unit vector towards the light.
    blur: metres, by which a shadow is widened for each metre that it falls, and anyway.
    """

    def __init__(self, meshes: MeshSequence, camera: Camera, sun: np.ndarray, blur: tuple[float, float]) -> None:
        self.meshes, self.camera, self._sun, self._blur = meshes, camera, sun, blur
        self._whole = (0, 0, camera.width, camera.height)
        self._varies = camera.is_static() and sun[2] >= LOWEST_SUN
        if self._varies:
            self._changing = _changing_vertices(meshes)
            self._lowest = float(meshes.vertices[..., 2].min())
            self._first = self._bounds(0)

    def region(self, t: int) -> Region:
        """Bounds of the pixels of frame t that may differ from those of the first frame."""
        if t == 0 or not self._varies:
            return self._whole
        low, high = self._bounds(t)
        low, high = np.minimum(low, self._first[0]), np.maximum(high, self._first[1])
        size = np.array(self._whole[2:])
        left, top = np.clip(np.floor(low), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(high), 0, size).astype(int)
        return (int(left), int(top), max(int(right), int(left)), max(int(bottom), int(top)))

    def _bounds(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest pixel coordinates [2] of what moves and of its shadows down to the lowest point.

        Both lie in the convex hull of the vertices and of the places to which their shadows fall.
        """
        points = self.meshes.vertices[t, self._changing]
        if not len(points):
            return np.full(2, np.inf), np.full(2, -np.inf)
        falls = (points[:, 2] - self._lowest) / self._sun[2]
        points = np.concatenate([points, points - falls[:, None] * self._sun])
        pixel, depth = self.camera.project(t, points)
        width = self._blur[0] * float(falls.max()) + self._blur[1]
        if depth.min() - width < NEAREST:
            return np.full(2, -np.inf), np.full(2, np.inf)
        margin = EDGE + width * float(self.camera.intrinsics[t, :2, :2].max()) / (float(depth.min()) - width) * 2
        return pixel.min(axis=0) - margin, pixel.max(axis=0) + margin


def _changing_vertices(meshes: MeshSequence) -> np.ndarray:
    """Vertices of all faces that move, change colour, or share a vertex, and thus a normal, with one that moves."""
    changes = (meshes.vertices != meshes.vertices[0]).any(axis=(0, 2))
    for _ in range(2):
        changes[meshes.faces[changes[meshes.faces].any(axis=1)]] = True
    if meshes.colour.ndim == 3:
        changes |= (meshes.colour != meshes.colour[0]).any(axis=(0, 2))
        changes[meshes.faces[changes[meshes.faces].any(axis=1)]] = True
    return np.nonzero(changes)[0]
