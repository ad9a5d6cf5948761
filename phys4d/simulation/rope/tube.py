"""The mesh of a rope: one smooth tube along the joints of its links.

The centre line is the Catmull-Rom spline through the joints; around it the surface rotates with the links. Every vertex
is a fixed function of the links' poses, so it is the same material point in every frame.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.scene_object import Surface

RINGS = {0: 1, 1: 1, 2: 2, 3: 3, 4: 4}  # per link, by detail
SIDES = {0: 5, 1: 6, 2: 7, 3: 9, 4: 12}


def tube(links: Sequence[Track], radius: float, half: float, detail: int) -> Surface:
    """The surface of a rope.

    links: pose of each link's capsule over time, z along the rope.
    radius: of the capsules, metres.
    half: half length of the capsules without their caps, metres.
    detail: subdivision level, see `Scene.simulate`.
    """
    rings, sides = RINGS[min(detail, 4)], SIDES[min(detail, 4)]
    position = np.stack([link.position for link in links], axis=1)
    axes = np.stack([link.rotation() for link in links], axis=1)
    joints = np.concatenate([position - half * axes[..., 2], (position + half * axes[..., 2])[:, -1:]], axis=1)
    parameter = np.linspace(0, len(links), rings * len(links) + 1)
    centre, tangent = _spline(joints, parameter)
    across = _across(axes[..., 0], tangent, parameter)
    # Round ends: a pole and one ring between the pole and the first full ring.
    bow = np.array([[0.0, 1.0], [0.75, 0.66]])
    reach, offset = np.ones(len(parameter)), np.zeros(len(parameter))
    reach = np.concatenate([bow[:, 0], reach, bow[::-1, 0]])
    offset = radius * np.concatenate([-bow[:, 1], offset, bow[::-1, 1]])
    which = np.concatenate([[0, 0], np.arange(len(parameter)), [-1, -1]])
    centre, tangent, across = (
        centre[:, which] + offset[:, None] * tangent[:, which],
        tangent[:, which],
        across[:, which],
    )
    beside = np.cross(tangent, across)
    angle = np.arange(sides) * (2 * np.pi / sides)
    x, y = radius * reach[:, None] * np.cos(angle), radius * reach[:, None] * np.sin(angle)
    vertices = centre[:, :, None] + x[..., None] * across[:, :, None] + y[..., None] * beside[:, :, None]
    length = np.repeat(2 * half * parameter[which] + offset, sides)
    rest = np.stack(
        [np.tile(radius * np.cos(angle), len(which)), np.tile(radius * np.sin(angle), len(which)), length], 1
    )
    frames = len(position)
    return Surface(vertices.reshape(frames, -1, 3), _faces(len(which), sides), rest, np.ones(len(rest)))


def _spline(joints: np.ndarray, parameter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and unit tangents [T, R, 3] of the spline through joints [T, N, 3]; integer parameters are joints."""
    ends = 2 * joints[:, [0, -1]] - joints[:, [1, -2]]
    around = np.concatenate([ends[:, :1], joints, ends[:, 1:]], axis=1)
    which = np.minimum(parameter.astype(int), joints.shape[1] - 2)
    u = (parameter - which)[:, None]
    a, b, c, d = (around[:, which + k] for k in range(4))
    point = b + u / 2 * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    slope = (c - a) / 2 + u * (2 * a - 5 * b + 4 * c - d) + 1.5 * u**2 * (3 * (b - c) + d - a)
    return point, slope / np.linalg.norm(slope, axis=-1, keepdims=True)


def _across(sideways: np.ndarray, tangent: np.ndarray, parameter: np.ndarray) -> np.ndarray:
    """Unit vectors [T, R, 3] perpendicular to the tangents, interpolated between the x axes [T, N, 3] of adjacent
    links.
    """
    place = np.clip(parameter - 0.5, 0, sideways.shape[1] - 1)
    first = np.minimum(place.astype(int), sideways.shape[1] - 2)
    share = (place - first)[:, None]
    blend = (1 - share) * sideways[:, first] + share * sideways[:, first + 1]
    blend = blend - tangent * (blend * tangent).sum(axis=-1, keepdims=True)
    return blend / np.linalg.norm(blend, axis=-1, keepdims=True)


def _faces(rings: int, sides: int) -> np.ndarray:
    i = np.arange(sides)
    j = (i + 1) % sides
    faces = []
    for low, high in pairwise(np.arange(rings) * sides):
        faces += [np.stack([low + i, low + j, high + j], axis=1), np.stack([low + i, high + j, high + i], axis=1)]
    return np.concatenate(faces)
