"""Draws particles as small beads that move rigidly with their centres, so that every visible point is a material point.
"""

import numpy as np

from phys4d.simulation.assembly import InstanceMesh
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.shapes import Mesh

RADIUS = 0.75  # of a bead, over the particles' spacing: beads of a pool at rest leave no holes
EDGE = np.deg2rad(84)  # polar angle from the point nearest to the camera to the bead's rim
RINGS = {4: (7, 2)}  # detail -> (edges around a bead, rings); other details use COARSE
COARSE = (6, 1)


def beads(
    centres: np.ndarray,
    spacing: float,
    colour: np.ndarray,
    instance: int,
    texture: Texture,
    *,
    eye: np.ndarray,
    detail: int,
) -> InstanceMesh:
    """Mesh of beads around particles: half balls that face the camera of the first frame, all with one orientation.

    centres: float64 [T, N, 3], world metres.
    spacing: metres between particles.
    colour: RGB of each particle, [N, 3] or [T, N, 3].
    instance: number of the instance.
    texture: pattern of the beads.
    eye: [3], world metres, camera position in the first frame.
    detail: subdivision level, see `Scene.simulate`.
    """
    towards = eye - centres[0].mean(axis=0)
    vertices, faces = dome(towards / np.linalg.norm(towards), *RINGS.get(detail, COARSE))
    offsets = vertices * (RADIUS * spacing)
    frames, count, corners = *centres.shape[:2], len(offsets)
    moved = (centres[:, :, None] + offsets).reshape(frames, count * corners, 3)
    all_faces = (faces + corners * np.arange(count)[:, None, None]).reshape(-1, 3)
    return InstanceMesh(moved, all_faces, moved[0], instance, np.repeat(colour, corners, axis=-2), texture)


def dome(top: np.ndarray, edges: int, rings: int) -> Mesh:
    """Half of a unit sphere around the direction `top` [3]: vertices float64 [V, 3], outward faces int32 [F, 3].

    edges: edges around the dome.
    rings: rings from the top to the rim.
    """
    right = np.cross((0.0, 0.0, 1.0), top)
    right /= np.linalg.norm(right)
    up = np.cross(top, right)
    turn = np.arange(edges) * (2 * np.pi / edges)
    circle = np.cos(turn)[:, None] * right + np.sin(turn)[:, None] * up
    vertices, faces = [top[None]], []
    i, j = np.arange(edges), (np.arange(edges) + 1) % edges
    for ring in range(rings):
        polar = EDGE * (ring + 1) / rings
        vertices.append(np.cos(polar) * top + np.sin(polar) * circle)
        here, before = 1 + ring * edges, 1 + (ring - 1) * edges
        if ring == 0:
            faces.append(np.stack([np.zeros(edges, int), here + i, here + j], axis=1))
        else:
            faces.append(np.stack([before + i, here + i, here + j], axis=1))
            faces.append(np.stack([before + i, here + j, before + j], axis=1))
    return np.concatenate(vertices), np.concatenate(faces).astype(np.int32)
