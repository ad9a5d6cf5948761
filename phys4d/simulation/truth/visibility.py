"""Whether surface points of frame t are visible in frame t + 1: exact, in float64."""

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.projected_faces import ProjectedFaces
from phys4d.simulation.truth.query_grid import QueryGrid
from phys4d.simulation.truth.rays import intersect, is_hit
from phys4d.simulation.truth.surface import Landing, Surface, SurfaceFinder

TOLERANCE = 1e-9  # of a point's depth, by which a face must be nearer to hide it


class Occlusion:
    """Which points are hidden in frame t + 1 by faces in front of them.

    meshes, camera: of the clip.
    finder: of the same clip; gives the faces that move.
    """

    def __init__(self, meshes: MeshSequence, camera: Camera, finder: SurfaceFinder) -> None:
        self.meshes, self.camera, self._finder = meshes, camera, finder
        self._still = ProjectedFaces(meshes, camera, 0, finder.at_rest)

    def visible(self, seen: Surface, landed: Landing, t: int) -> np.ndarray:
        """Bool [N]: points of frame t that land inside the image of frame t + 1 without a surface in front of them.

        In front means nearer by more than TOLERANCE of the point's depth.

        seen: the points in frame t.
        landed: the same points in frame t + 1.
        t: number of the frame.
        """
        meshes, camera = self.meshes, self.camera
        result = landed.ahead & (landed.pixel >= 0).all(axis=1)
        result &= (landed.pixel[:, 0] <= camera.width) & (landed.pixel[:, 1] <= camera.height)
        which = np.nonzero(result)[0]
        pixel, limit = landed.pixel[which], landed.depth[which] * (1 - TOLERANCE)
        grid = QueryGrid(pixel, limit, camera, t + 1)
        corners = meshes.vertices[t + 1] - camera.origin(t + 1)
        for faces in (self._still, ProjectedFaces(meshes, camera, t + 1, self._finder.moving)):
            for number, place in grid.pairs(faces):
                face = faces.which[number]
                depth, barycentric = intersect(camera.directions(t + 1, pixel[place]), corners[meshes.faces[face]])
                hides = is_hit(depth, barycentric) & (depth < limit[place]) & (face != seen.face[which[place]])
                result[which[place[hides]]] = False
        return result
