"""The surface points at the pixel centres of every frame, exactly those of the nearest face along each ray, in float64.

With a static camera, faces that never move are searched once for the whole clip.
"""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.first_faces import first_faces, in_camera_axes
from phys4d.simulation.truth.projected_faces import NEAREST
from phys4d.simulation.truth.rays import intersect

MOVING = 1e-4  # metres per frame


@dataclass(frozen=True)
class Surface:
    """Surface points seen by N pixels of one frame.

    row, column, face: int [N].
    barycentric: float64 [N, 3], of the point in its face.
    depth: float64 [N], metres along the optical axis.
    """

    row: np.ndarray
    column: np.ndarray
    face: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray

    def points(self, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """World positions [N, 3] of these material points for vertices [V, 3]."""
        a, b, c = (vertices[faces[self.face, corner]] for corner in range(3))
        u, v, w = (self.barycentric[:, corner, None] for corner in range(3))
        return u * a + v * b + w * c


@dataclass(frozen=True)
class Landing:
    """The points of a `Surface` in the next frame.

    points: float64 [N, 3], world metres.
    pixel: float64 [N, 2], pixel coordinates in the next frame.
    depth: float64 [N], metres, in the next frame's camera; 0 behind it.
    displacement: float64 [N], metres moved in the world.
    """

    points: np.ndarray
    pixel: np.ndarray
    depth: np.ndarray
    displacement: np.ndarray

    @property
    def ahead(self) -> np.ndarray:
        """Bool [N], in front of the camera."""
        return self.depth > 0


class SurfaceFinder:
    """Finds the nearest face at each pixel centre of a clip.

    meshes, camera: of the clip.
    still: the `Surface` of the faces that never move, the same in every frame; empty if the camera moves.
    at_rest, moving: int, numbers of the faces that never move, and of the others; all are moving if the camera moves.
    still_corners: corners of `at_rest`, as `moving_corners`.
    """

    def __init__(self, meshes: MeshSequence, camera: Camera) -> None:
        self.meshes, self.camera = meshes, camera
        fixed = (meshes.vertices == meshes.vertices[0]).all(axis=(0, 2)) & camera.is_static()
        rests = fixed[meshes.faces].all(axis=1)
        self.moving, self.at_rest = np.nonzero(~rests)[0], np.nonzero(rests)[0]
        row, column = (axis.ravel() for axis in np.mgrid[: camera.height, : camera.width])
        self._pixel = np.stack([column + 0.5, row + 0.5], axis=1)
        self._still_depth, self._still_face = np.full(len(row), np.inf), np.full(len(row), -1)
        self._frame, self._corners = -1, np.empty((0, 3, 3))
        self.still_corners = in_camera_axes(meshes.vertices[0], camera, 0)[meshes.faces[self.at_rest]]
        self.still = self._nearer(0, self.at_rest, self.still_corners)
        place = self.still.row * camera.width + self.still.column
        self._still_depth[place], self._still_face[place] = self.still.depth, self.still.face

    def surface(self, t: int) -> Surface:
        """The surface points of the pixels of frame t whose nearest face is one of `moving`."""
        return self._nearer(t, self.moving, self.moving_corners(t))

    def moving_corners(self, t: int) -> np.ndarray:
        """Corners [F, 3, 3] of `moving` in frame t, in the camera's axes, metres; those of the last frame are kept."""
        if self._frame != t:
            local = in_camera_axes(self.meshes.vertices[t], self.camera, t)
            self._frame, self._corners = t, local[self.meshes.faces[self.moving]]
        return self._corners

    def _nearer(self, t: int, which: np.ndarray, corners: np.ndarray) -> Surface:
        """The surface points at which one of these faces is nearer than `still`."""
        meshes, camera = self.meshes, self.camera
        inside = self._places(t, which, corners)
        pixel, before = self._pixel[inside], self._still_face[inside]
        face = first_faces(corners, which, camera, t, pixel=pixel, limit=self._still_depth[inside], face=before)
        found = np.nonzero(face != before)[0]
        seen, pixel = face[found], pixel[found]
        row, column = np.divmod(inside[found], camera.width)
        own = meshes.vertices[t][meshes.faces[seen]] - camera.origin(t)
        depth, barycentric = intersect(camera.directions(t, pixel), own)
        return Surface(row, column, seen, barycentric, depth)

    def _places(self, t: int, which: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Numbers, row by row, of the pixels in the bounds that the faces `which`, with corners [F, 3, 3], have in the
        image, instance by instance; all if one of the faces reaches the near plane.
        """
        camera, k = self.camera, self.camera.intrinsics[t]
        if not corners.size:
            return np.zeros(0, dtype=np.int64)
        if corners[..., 2].min() <= NEAREST:
            return np.arange(camera.height * camera.width)
        starts = np.nonzero(np.diff(self.meshes.instance[which], prepend=-1))[0]
        bounds = []
        for axis, size in ((0, camera.width), (1, camera.height)):
            seen = corners[..., axis] / corners[..., 2] * k[axis, axis] + k[axis, 2]
            low, high = np.minimum.reduceat(seen.min(axis=1), starts), np.maximum.reduceat(seen.max(axis=1), starts)
            bounds.append(np.clip([np.floor(low) - 1, np.ceil(high) + 1], 0, size).astype(int))
        inside = np.zeros((camera.height, camera.width), dtype=bool)
        for (left, right), (top, bottom) in zip(*(each.T for each in bounds), strict=True):
            inside[top:bottom, left:right] = True
        return np.nonzero(inside.ravel())[0]


def landing(seen: Surface, meshes: MeshSequence, camera: Camera, t: int) -> Landing:
    """Follows the points seen in frame t to frame t + 1."""
    points = seen.points(meshes.vertices[t + 1], meshes.faces)
    before = seen.points(meshes.vertices[t], meshes.faces)
    displacement = np.linalg.norm(points - before, axis=1)
    return Landing(points, *projected(points, camera, t + 1), displacement)


def projected(points: np.ndarray, camera: Camera, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates [N, 2] and depth [N], metres, of world points [N, 3] in frame t; depth 0 behind the camera."""
    inverse = camera.world_to_camera(t)
    local_depth = points @ inverse[2, :3] + inverse[2, 3]
    ahead = local_depth > 1e-6
    pixel, depth = camera.project(t, np.where(ahead[:, None], points, points + inverse[2, :3]))
    return pixel, np.where(ahead, depth, 0)
