"""Whether a surface point of frame t is visible in frame t + 1: ray cast by Embree, refined in float64."""

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.surface import Landing, Surface

# Relative to depth. Embree works in float32 and may return a neighbour of the face that is hit, whose plane differs by
# up to this.
TOLERANCE = 1e-6


def visible(seen: Surface, landed: Landing, meshes: MeshSequence, camera: Camera, t: int) -> np.ndarray:
    """Bool [N]: points of frame t that land inside the image of frame t + 1 without a surface in front of them.

    In front means nearer by more than TOLERANCE of the point's depth.

    seen: the points in frame t.
    landed: the same points in frame t + 1.
    meshes, camera: of the clip.
    t: number of the frame.
    """
    inside = landed.ahead & (landed.pixel >= 0).all(axis=1)
    inside &= (landed.pixel[:, 0] <= camera.width) & (landed.pixel[:, 1] <= camera.height)
    which = np.nonzero(inside)[0]
    origin = camera.origin(t + 1)
    corners = meshes.vertices[t + 1] - origin
    directions = landed.points[which] - origin
    hit = first_hits(corners, meshes.faces, directions)
    other = np.nonzero((hit >= 0) & (hit != seen.face[which]))[0]
    a, b, c = (corners[meshes.faces[hit[other], corner]] for corner in range(3))
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (normal * a).sum(axis=1) / (normal * directions[other]).sum(axis=1)
    result = inside.copy()
    result[which[other]] = ~(share < 1 - TOLERANCE)
    return result


def first_hits(vertices: np.ndarray, faces: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Index int [N] of the face that each ray from the origin hits first, -1 for none.

    vertices: float64 [V, 3] relative to the rays' origin. faces: int32 [F, 3]. directions: float64 [N, 3].
    """
    scene = EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), faces)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return scene.run(np.zeros_like(unit, dtype=np.float32), unit.astype(np.float32))
