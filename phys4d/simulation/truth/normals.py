"""Normals of the faces that pixels see."""

import numpy as np

from phys4d.simulation.clip import Truth
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.rays import cross, dot
from phys4d.simulation.truth.surface import Surface, SurfaceFinder


def normals(meshes: MeshSequence, camera: Camera, truth: Truth) -> dict[str, np.ndarray]:
    """The unit normal of the face that each pixel sees, of that side which the camera sees, in the camera's axes.

    It belongs to the surface of `depth`, which is made of flat faces, and is computed in float64.

    meshes, camera, truth: of the clip.

    Returns `normal`, float32 [3, T, H, W]; 0 where depth is not valid.
    """
    finder = SurfaceFinder(meshes, camera)
    normal = np.zeros((3, *truth.depth.shape), dtype=np.float32)
    for t in range(meshes.frames):
        for seen in (finder.still, finder.surface(t)):
            normal[:, t, seen.row, seen.column] = _towards_camera(seen, meshes, camera, t).T
    normal *= truth.depth_valid
    return {"normal": normal}


def _towards_camera(seen: Surface, meshes: MeshSequence, camera: Camera, t: int) -> np.ndarray:
    """Unit normals [N, 3] in the camera's axes of the faces of surface points."""
    a, b, c = (meshes.vertices[t][meshes.faces[seen.face, corner]] for corner in range(3))
    normal = cross(b - a, c - a)
    normal *= np.where(dot(normal, a - camera.origin(t)) > 0, -1.0, 1.0)[:, None]
    length = np.sqrt(dot(normal, normal))
    return (normal / length[:, None]) @ camera.camera_to_world[t, :3, :3]
