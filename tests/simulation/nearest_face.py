"""An independent check of depth, instances and visibility: the nearest face along each pixel's ray.

Embree, as trimesh calls it, finds a face for each ray; where it disagrees with the truth, all faces are intersected in
float64. No code is shared with the renderer or the truth.
"""

import numpy as np
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from phys4d.simulation.clip import Truth
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera

EXACT = 1e-9  # metres


def first_hits(mesh: trimesh.Trimesh, eye: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance along each direction of the face that Embree hits first, inf for none, and the face, -1 for none."""
    caster = RayMeshIntersector(mesh)
    face, ray = caster.intersects_id(np.tile(eye, (len(directions), 1)), directions, multiple_hits=False)
    corner = mesh.vertices[mesh.faces[face, 0]] - eye
    normal = np.cross(*(mesh.vertices[mesh.faces[face, k]] - mesh.vertices[mesh.faces[face, 0]] for k in (1, 2)))
    distance, found = np.full(len(directions), np.inf), np.full(len(directions), -1)
    found[ray] = face
    with np.errstate(divide="ignore", invalid="ignore"):
        distance[ray] = (normal * corner).sum(axis=1) / (normal * directions[ray]).sum(axis=1)
    return distance, found


def all_hits(mesh: trimesh.Trimesh, eye: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and faces of all triangles that a ray meets (Moeller and Trumbore), in float64."""
    corner, second, third = (np.asarray(mesh.vertices)[mesh.faces[:, k]] - eye for k in range(3))
    second, third = second - corner, third - corner
    across = np.cross(direction, third)
    volume = (second * across).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = -(corner * across).sum(axis=1) / volume
        beside = np.cross(-corner, second)
        v, distance = (beside @ direction) / volume, (third * beside).sum(axis=1) / volume
    met = np.nonzero((u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0))[0]
    return distance[met], met


def directions_through(camera: Camera, t: int, pixel: np.ndarray) -> np.ndarray:
    """World directions of unit depth through pixel coordinates [2, N]."""
    local = np.linalg.solve(camera.intrinsics[t], np.vstack([pixel, np.ones_like(pixel[:1])]))
    return (camera.camera_to_world[t, :3, :3] @ local).T


def wrong_surfaces(sequence: MeshSequence, camera: Camera, truth: Truth) -> list[tuple[int, int, int]]:
    """(frame, row, column) of the pixels whose depth or instance is not that of the nearest face."""
    wrong = []
    row, column = (axis.ravel() for axis in np.mgrid[: camera.height, : camera.width])
    for t in range(sequence.frames):
        mesh = trimesh.Trimesh(sequence.vertices[t], sequence.faces, process=False)
        eye = camera.camera_to_world[t, :3, 3]
        rays = directions_through(camera, t, np.stack([column, row]) + 0.5)
        distance, face = first_hits(mesh, eye, rays)
        depth = np.where(truth.instance[t] > 0, truth.depth[t], np.inf).ravel()
        instance = np.where(face >= 0, sequence.instance[face], 0)
        with np.errstate(invalid="ignore"):
            agrees = (np.abs(distance - depth) <= EXACT) | (distance == depth)
        agrees &= instance == truth.instance[t].ravel()
        for pixel in np.nonzero(~agrees)[0]:
            distances, faces = all_hits(mesh, eye, rays[pixel])
            nearest = distances.min(initial=np.inf)
            equal = sequence.instance[faces[distances <= nearest + EXACT]]
            same = depth[pixel] == nearest or abs(depth[pixel] - nearest) <= EXACT
            if not same or truth.instance[t].ravel()[pixel] not in (equal if len(equal) else [0]):
                wrong.append((t, int(row[pixel]), int(column[pixel])))
    return wrong


def wrong_visibilities(sequence: MeshSequence, camera: Camera, truth: Truth) -> list[tuple[int, int, int]]:
    """(frame, row, column) of the pixels whose point is called visible though a face is in front of it, or the
    opposite.
    """
    wrong = []
    for t in range(sequence.frames - 1):
        row, column = np.nonzero(truth.flow_valid[t])
        landed = np.stack([column, row]) + 0.5 + truth.motion[:2, t, row, column]
        inside = ((landed >= 0) & (landed <= [[camera.width], [camera.height]])).all(axis=0)
        said = truth.visible[t, row, column]
        wrong += [(t, int(i), int(j)) for i, j in zip(row[said & ~inside], column[said & ~inside], strict=True)]
        row, column, said = row[inside], column[inside], said[inside]
        mesh = trimesh.Trimesh(sequence.vertices[t + 1], sequence.faces, process=False)
        eye, rays = camera.camera_to_world[t + 1, :3, 3], directions_through(camera, t + 1, landed[:, inside])
        depth = truth.depth[t, row, column] + truth.motion[2, t, row, column]
        distance, _ = first_hits(mesh, eye, rays)
        for pixel in np.nonzero(said != (distance >= depth - EXACT))[0]:
            nearest = all_hits(mesh, eye, rays[pixel])[0].min(initial=np.inf)
            # Within a few tolerances of the truth's own, either is right.
            if (nearest < depth[pixel] - 10 * EXACT) if said[pixel] else (nearest >= depth[pixel] - 0.1 * EXACT):
                wrong.append((t, int(row[pixel]), int(column[pixel])))
    return wrong
