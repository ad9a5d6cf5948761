"""Draws particles as small beads that move rigidly with their centres, so that every visible point is a material point.
"""

import numpy as np

from phys4d.simulation.assembly import InstanceMesh
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.shapes import icosphere

RADIUS = 0.75  # of a bead, over the particles' spacing: beads of a pool at rest leave no holes
FINE = 4  # detail from which beads have 80 faces instead of 20


def beads(
    centres: np.ndarray,
    spacing: float,
    colour: np.ndarray,
    instance: int,
    texture: Texture,
    *,
    detail: int,
) -> InstanceMesh:
    """Mesh of beads around particles: whole balls, so that a camera may look from any side, all with one orientation.

    centres: float64 [T, N, 3], world metres.
    spacing: metres between particles.
    colour: RGB of each particle, [N, 3] or [T, N, 3].
    instance: number of the instance.
    texture: pattern of the beads.
    detail: subdivision level, see `Scene.simulate`.
    """
    vertices, faces = icosphere(1 if detail >= FINE else 0)
    offsets = vertices * (RADIUS * spacing)
    frames, count, corners = *centres.shape[:2], len(offsets)
    moved = (centres[:, :, None] + offsets).reshape(frames, count * corners, 3)
    all_faces = (faces + corners * np.arange(count)[:, None, None]).reshape(-1, 3)
    colours = np.repeat(colour, corners, axis=-2)
    return InstanceMesh(moved, all_faces, moved[0], instance, colours, texture, turns=False)
