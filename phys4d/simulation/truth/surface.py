"""The surface points at the pixel centres of every frame, exactly those of the nearest face along each ray, in float64.

OpenGL proposes a face for each pixel; it only bounds the search. With a static camera, faces that never move are
searched once for the whole clip.
"""

from dataclasses import dataclass, replace

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rendering.raster import LoadedMeshes, Rasteriser
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.projected_faces import ProjectedFaces
from phys4d.simulation.truth.query_grid import QueryGrid
from phys4d.simulation.truth.rays import intersect, is_hit

MOVING = 1e-4  # metres per frame
# Relative difference of depths below which two faces are equally near, as on their common edge; the lower number wins.
EQUAL = 1e-12


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
    depth: float64 [N], metres, in the next frame's camera.
    displacement: float64 [N], metres moved in the world.
    ahead: bool [N], in front of the camera.
    """

    points: np.ndarray
    pixel: np.ndarray
    depth: np.ndarray
    displacement: np.ndarray
    ahead: np.ndarray


class SurfaceFinder:
    """Finds the nearest face at each pixel centre of a clip.

    meshes, camera: of the clip.
    raster: proposes faces.
    still: the `Surface` of the faces that never move, the same in every frame; empty if the camera moves.
    at_rest, moving: int, numbers of the faces that never move, and of the others; all are moving if the camera moves.
    """

    def __init__(self, meshes: MeshSequence, camera: Camera, raster: Rasteriser) -> None:
        self.meshes, self.camera = meshes, camera
        fixed = (meshes.vertices == meshes.vertices[0]).all(axis=(0, 2)) & camera.is_static()
        rests = fixed[meshes.faces].all(axis=1)
        self.moving, self.at_rest = np.nonzero(~rests)[0], np.nonzero(rests)[0]
        size = (camera.height, camera.width)
        self._still_depth, self._still_face = np.full(size, np.inf), np.full(size, -1)
        self.still = self._no_surface()
        if len(self.at_rest):
            with raster.load(_first_frame(meshes, self.at_rest)) as loaded:
                number = loaded.face_ids(0, camera)
            self.still = self._search(0, np.where(number >= 0, self.at_rest[number], -1), self.at_rest)
            at = (self.still.row, self.still.column)
            self._still_depth[at], self._still_face[at] = self.still.depth, self.still.face

    def surface(self, t: int, loaded: LoadedMeshes) -> Surface:
        """The surface points of the pixels of frame t whose nearest face is one of `moving`.

        loaded: the meshes, in the rasteriser.
        """
        return self._search(t, loaded.face_ids(t, self.camera), self.moving)

    def _no_surface(self) -> Surface:
        none = np.zeros(0, dtype=np.int64)
        return Surface(none, none, none, np.zeros((0, 3)), np.zeros(0))

    def _search(self, t: int, proposed: np.ndarray, faces: np.ndarray) -> Surface:
        """The nearest of `faces` at each pixel where it is nearer than `still`.

        t: number of the frame.
        proposed: int [H, W], faces of the sequence, -1 for none.
        faces: int [F], ascending.
        """
        meshes, camera = self.meshes, self.camera
        corners = meshes.vertices[t] - camera.origin(t)
        bound = self._bound(t, proposed, corners)
        row, column = np.mgrid[: camera.height, : camera.width]
        pixel = np.stack([column.ravel() + 0.5, row.ravel() + 0.5], axis=1)
        projected = ProjectedFaces(meshes, camera, t, faces)
        found: list[tuple[np.ndarray, ...]] = []
        for number, place in QueryGrid(pixel, bound.ravel(), camera, t).pairs(projected):
            face = projected.which[number]
            depth, barycentric = intersect(camera.directions(t, pixel[place]), corners[meshes.faces[face]])
            hit = is_hit(depth, barycentric)
            found.append((place[hit], face[hit], barycentric[hit], depth[hit]))
        if not found:
            return self._no_surface()
        place, face, barycentric, depth = (np.concatenate(each) for each in zip(*found, strict=True))
        first = self._nearest(place, face, depth)
        place, face, barycentric, depth = place[first], face[first], barycentric[first], depth[first]
        row, column = np.divmod(place, camera.width)
        before, other = self._still_depth[row, column], self._still_face[row, column]
        wins = np.where(np.abs(depth - before) <= EQUAL * depth, face < other, depth < before)
        return Surface(row[wins], column[wins], face[wins], barycentric[wins], depth[wins])

    def _bound(self, t: int, proposed: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Depths [H, W] of the proposed faces where they are hit, of the still ones where these are nearer."""
        bound = self._still_depth.copy()
        row, column = np.nonzero((proposed >= 0) & (proposed != self._still_face))
        pixel = np.stack([column + 0.5, row + 0.5], axis=1)
        depth, barycentric = intersect(
            self.camera.directions(t, pixel), corners[self.meshes.faces[proposed[row, column]]]
        )
        depth = np.where(is_hit(depth, barycentric), depth, np.inf)
        bound[row, column] = np.minimum(bound[row, column], depth)
        return bound

    @staticmethod
    def _nearest(place: np.ndarray, face: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Index of one hit for each distinct place: the nearest, of equally near ones that of the lowest face."""
        order = np.lexsort((depth, place))
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        least = np.repeat(depth[order][starts], np.diff(starts, append=len(order)))
        order = order[depth[order] <= least * (1 + EQUAL)]
        order = order[np.lexsort((face[order], place[order]))]
        return order[np.flatnonzero(np.diff(place[order], prepend=-1))]


def _first_frame(meshes: MeshSequence, which: np.ndarray) -> MeshSequence:
    """The first frame with these faces only."""
    colour = meshes.colour if meshes.colour.ndim == 2 else meshes.colour[:1]
    return replace(
        meshes, vertices=meshes.vertices[:1], faces=meshes.faces[which], instance=meshes.instance[which], colour=colour
    )


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
