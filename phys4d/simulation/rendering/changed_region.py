"""The parts of a static camera's image that change over a clip: what moves, and the shadows that it may cast."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera

Region = tuple[int, int, int, int]  # pixels: left, top, right, bottom; the last two are outside

EDGE = 3.0  # pixels around it that samples, derivatives and rounded vertices may reach
LOWEST_SUN = 0.2  # sine of the sun's height below which shadows may fall anywhere
STRETCHES = 4  # of a shadow's way, each with bounds of its own
ALONE, FACE = 4000, 3  # pixels that take as long as drawing a region apart, and as one face more in it
PARTS = 64  # of a large mesh, each of which is bounded by a box
NEAREST = 0.1  # metres from the camera, below which something may cover the whole image


class ChangedRegion:
    """Bounds of what may differ from a picture of the faces that never change alone, for a static camera.

    meshes, camera: of the clip.
    sun: [3], unit vector towards the light.
    blur: metres, by which a shadow is widened for each metre that it falls, and anyway.

    The attribute `whole` is true if every frame may differ everywhere; `changing` is bool [V], vertices of all faces
    that move, change colour, or share a vertex, and thus a normal, with one that moves.
    """

    def __init__(self, meshes: MeshSequence, camera: Camera, sun: np.ndarray, blur: tuple[float, float]) -> None:
        self.meshes, self.camera, self._sun, self._blur = meshes, camera, sun, blur
        self._image = (0, 0, camera.width, camera.height)
        self.whole = not camera.is_static() or sun[2] < LOWEST_SUN
        self.changing = np.ones(meshes.vertices.shape[1], dtype=bool)
        if not self.whole:
            self.changing = _changing_vertices(meshes)
            self._lowest = float(meshes.vertices[..., 2].min())
            self._groups = _by_instance(meshes, self.changing)

    def regions(self, t: int) -> list[Region]:
        """Bounds of the pixels of frame t that may differ; those of things that lie apart are apart."""
        if self.whole:
            return [self._image]
        found: list[Region] = []
        for group in self._groups:
            for region in self._bounds(t, _hull(self.meshes.vertices[t, group])):
                while (near := next((other for other in found if self._joins(region, other)), None)) is not None:
                    found.remove(near)
                    region = _joined(region, near)
                found.append(region)
        return found

    def _joins(self, one: Region, other: Region) -> bool:
        """Whether both take no longer to draw as one."""
        apart = _area(one) + _area(other) + ALONE + FACE * len(self.meshes.faces)
        return _area(_joined(one, other)) <= apart

    def _bounds(self, t: int, points: np.ndarray) -> Iterator[Region]:
        """Regions of some vertices [N, 3] and of their shadows on the way down to the lowest point.

        What a stretch of the way covers lies in the convex hull of the vertices moved to its two ends.
        """
        falls = (points[:, 2] - self._lowest) / self._sun[2]
        ends = np.linspace(0, 1, STRETCHES + 1)
        yield from self._region(t, points, 0.0)
        for start, end in pairwise(ends):
            moved = [points - share * falls[:, None] * self._sun for share in (start, end)]
            yield from self._region(t, np.concatenate(moved), self._blur[0] * end * float(falls.max()) + self._blur[1])

    def _region(self, t: int, points: np.ndarray, width: float) -> Iterator[Region]:
        """Bounds of points [N, 3], widened by `width` metres; nothing if they are outside the image."""
        pixel, depth = self.camera.project(t, points)
        if depth.min() - width < NEAREST:
            yield self._image
            return
        margin = EDGE + width * float(self.camera.intrinsics[t, :2, :2].max()) / (float(depth.min()) - width) * 2
        size = np.array(self._image[2:])
        left, top = np.clip(np.floor(pixel.min(axis=0) - margin), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(pixel.max(axis=0) + margin), 0, size).astype(int)
        if right > left and bottom > top:
            yield (int(left), int(top), int(right), int(bottom))


def _by_instance(meshes: MeshSequence, changing: np.ndarray) -> list[np.ndarray]:
    """The changing vertices of each instance that has some."""
    whose = np.zeros(len(changing), dtype=meshes.instance.dtype)
    whose[meshes.faces] = meshes.instance[:, None]
    groups = (np.nonzero(changing & (whose == instance))[0] for instance in np.unique(meshes.instance))
    return [group for group in groups if len(group)]


def _hull(points: np.ndarray) -> np.ndarray:
    """The points [N, 3], or, if they are many, the corners of boxes that hold them."""
    if len(points) <= 16 * PARTS:
        return points
    starts = np.linspace(0, len(points), PARTS, endpoint=False).astype(int)
    ends = np.stack([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)])
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(-1, 3)
    return np.concatenate([ends[corner, :, range(3)].T for corner in corners])


def _joined(one: Region, other: Region) -> Region:
    return (min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))


def _area(region: Region) -> int:
    return (region[2] - region[0]) * (region[3] - region[1])


def _changing_vertices(meshes: MeshSequence) -> np.ndarray:
    """Bool [V], see `ChangedRegion`."""
    changes = (meshes.vertices != meshes.vertices[0]).any(axis=(0, 2))
    for _ in range(2):
        changes[meshes.faces[changes[meshes.faces].any(axis=1)]] = True
    if meshes.colour.ndim == 3:
        changes |= (meshes.colour != meshes.colour[0]).any(axis=(0, 2))
        changes[meshes.faces[changes[meshes.faces].any(axis=1)]] = True
    return changes
