"""Exact geometry of the surface point at every pixel centre, in float64, from the face that OpenGL proposes."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera

MOVING = 1e-4  # metres per frame
INSIDE = 1e-9  # tolerance in barycentric coordinates for a hit outside its triangle
RAYS_AT_ONCE = 32


@dataclass(frozen=True)
class Surface:
    """Surface points seen by the N pixels of one frame that see a surface.

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
    depth: float64 [N], metres, in the next frame's camera.
    displacement: float64 [N], metres moved in the world.
    ahead: bool [N], in front of the camera.
    """

    points: np.ndarray
    pixel: np.ndarray
    depth: np.ndarray
    displacement: np.ndarray
    ahead: np.ndarray


def surface(face_ids: np.ndarray, meshes: MeshSequence, camera: Camera, t: int) -> Surface:
    """Intersects the rays through the pixel centres of frame t with their faces, in float64.

    A rasteriser rounds vertices to a fraction of a pixel; rays that miss the proposed face are intersected with all
    faces.

    face_ids: int [H, W], proposed faces, -1 for none.
    meshes, camera: of the clip.
    t: number of the frame.
    """
    row, column = np.nonzero(face_ids >= 0)
    face = face_ids[row, column].astype(np.int64)
    directions = camera.directions(t, np.stack([column + 0.5, row + 0.5], axis=1))
    corners = meshes.vertices[t][meshes.faces[face]] - camera.origin(t)
    depth, barycentric = _intersect(directions, corners)
    missed = np.nonzero(~((barycentric >= -INSIDE).all(axis=1) & (depth > 0)))[0]
    every = meshes.vertices[t][meshes.faces] - camera.origin(t) if len(missed) else corners
    for start in range(0, len(missed), RAYS_AT_ONCE):
        some = missed[start : start + RAYS_AT_ONCE]
        all_depths, all_barycentric = _intersect(directions[some, None], every[None])
        hit = (all_barycentric >= -INSIDE).all(axis=2) & (all_depths > 0)
        nearest = np.where(hit, all_depths, np.inf).argmin(axis=1)
        which = np.arange(len(some))
        face[some] = np.where(hit.any(axis=1), nearest, -1)
        depth[some], barycentric[some] = all_depths[which, nearest], all_barycentric[which, nearest]
    seen = face >= 0
    return Surface(row[seen], column[seen], face[seen], barycentric[seen], depth[seen])


def _intersect(direction: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersects rays from the origin, [..., 3], with planes of triangles, [..., 3, 3]: distances and barycentrics
    [..., 3].

    Distances are in units of the direction, hence depths for directions of unit depth; NaN for parallel rays.
    """
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    first, second = b - a, c - a
    normal = _cross(first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = _dot(normal, a) / _dot(normal, direction)
        point = distance[..., None] * direction - a
        square = _dot(normal, normal)
        v = _dot(_cross(point, second), normal) / square
        w = _dot(_cross(first, point), normal) / square
    return distance, np.stack([1 - v - w, v, w], axis=-1)


def _dot(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return p[..., 0] * q[..., 0] + p[..., 1] * q[..., 1] + p[..., 2] * q[..., 2]


def _cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """np.cross without its overhead on small arrays."""
    p0, p1, p2 = p[..., 0], p[..., 1], p[..., 2]
    q0, q1, q2 = q[..., 0], q[..., 1], q[..., 2]
    return np.stack([p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0], axis=-1)


def landing(seen: Surface, meshes: MeshSequence, camera: Camera, t: int) -> Landing:
    """Follows the points seen in frame t to frame t + 1."""
    points = seen.points(meshes.vertices[t + 1], meshes.faces)
    before = seen.points(meshes.vertices[t], meshes.faces)
    inverse = camera.world_to_camera(t + 1)
    local_depth = points @ inverse[2, :3] + inverse[2, 3]
    ahead = local_depth > 1e-6
    pixel, depth = camera.project(t + 1, np.where(ahead[:, None], points, points + inverse[2, :3]))
    displacement = np.linalg.norm(points - before, axis=1)
    return Landing(points, pixel, np.where(ahead, depth, 0), displacement, ahead)
