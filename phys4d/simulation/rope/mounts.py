"""Supports of ropes: bars that project from the wall, and posts."""

import numpy as np

from phys4d.simulation.articulated.linkage import add_geom, fixed_object
from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject
from phys4d.simulation.scene import Room
from phys4d.simulation.scenery import poses
from phys4d.simulation.scenery.materials import muted

BEFORE = 0.2  # metres that a bar extends towards the camera
AXLE_RADIUS = 0.016
POST = 0.016  # half the width of a post, metres


def bar_from_wall(rng: np.random.Generator, point: np.ndarray, axis: np.ndarray, room: Room, radius: float) -> Prop:
    """A round bar that ropes can touch, through `point` along the level direction `axis` into the wall."""
    centre, turn, length = _into_wall(point, axis, room, BEFORE)
    return Prop(
        "bar", "cylinder", muted(rng, 0.35, 0.6), Texture.PLAIN, (radius, length / 2), rng.uniform(0.3, 0.5),
        (float(centre[0]), float(centre[1]), float(centre[2])), (turn[0], turn[1], turn[2], turn[3]),
    )  # fmt: skip


def axle_from_wall(model: Mjcf, point: np.ndarray, axis: np.ndarray, room: Room) -> SceneObject:
    """A thin bar that holds the end of a rope; it has no contacts."""
    centre, turn, length = _into_wall(point, axis, room, 0.05)
    axle = add_geom(model.world, "axle", "cylinder", (AXLE_RADIUS, length / 2), centre, turn, touches=False)
    return fixed_object("axle", [axle])


def _into_wall(point: np.ndarray, axis: np.ndarray, room: Room, before: float) -> tuple[np.ndarray, list[float], float]:
    """Centre, quaternion (z along the axis) and length of a bar from `before` metres in front of a point into the wall.
    """
    into = axis if axis[1] > 0 else -axis
    length = before + (room.depth - point[1]) / into[1] + 0.1
    turn = [float(value) for value in poses.heading_pitch(into, np.pi / 2)]
    return point + into * (length / 2 - before), turn, length


def post(end: np.ndarray, away: np.ndarray, radius: float, grey: Colour) -> Prop:
    """A post from the floor to just above a rope's end, behind it."""
    half = end[2] / 2 + 0.02
    x, y = (end + away * (radius + POST + 0.004))[:2]
    return Prop("post", "box", grey, Texture.PLANKS, (POST, POST, half), 0.4, (float(x), float(y), float(half)))
