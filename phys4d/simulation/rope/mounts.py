"""What ropes hang on and fall over: bars that stick out of the wall, posts."""

from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Room
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.mjcf import Mjcf, pose, text
from phys4d.simulation.world.thing import Thing

BEFORE = 0.2  # metres that a bar reaches towards the camera
AXLE_RADIUS = 0.016
POST = 0.016  # half the width of a post, metres
GREY = (0.42, 0.43, 0.45)


def bar_from_wall(random: np.random.Generator, point: np.ndarray, axis: np.ndarray, room: Room, radius: float) -> Prop:
    """A round bar that a rope can touch, through a point and along a level axis into the wall."""
    centre, turn, length = _into_wall(point, axis, room, BEFORE)
    return Prop(
        "bar", "cylinder", muted(random, 0.35, 0.6), Texture.PLAIN, (radius, length / 2), random.uniform(0.3, 0.5),
        (float(centre[0]), float(centre[1]), float(centre[2])), (turn[0], turn[1], turn[2], turn[3]),
    )  # fmt: skip


def axle_from_wall(model: Mjcf, point: np.ndarray, axis: np.ndarray, room: Room) -> Thing:
    """A thin bar on which a rope's end is held; it touches nothing."""
    centre, turn, length = _into_wall(point, axis, room, 0.05)
    shape = {"type": "cylinder", "size": text(AXLE_RADIUS, length / 2), "contype": "0", "conaffinity": "0"}
    Xml.SubElement(model.world, "geom", shape | pose(centre, turn), name="axle")
    return Thing(name="axle", rgb=GREY, texture=Texture.PLAIN, geoms=("axle",), dynamic=False)


def _into_wall(point: np.ndarray, axis: np.ndarray, room: Room, before: float) -> tuple[np.ndarray, list[float], float]:
    """Centre, quaternion (z to the axis) and length of what reaches from `before` a point into the wall."""
    into = axis if axis[1] > 0 else -axis
    length = before + (room.depth - point[1]) / into[1] + 0.1
    turn = [float(value) for value in staging.pitched(into, np.pi / 2)]
    return point + into * (length / 2 - before), turn, length


def post(end: np.ndarray, away: np.ndarray, radius: float, grey: Colour) -> Prop:
    """A post from the floor to a little above a rope's end, just behind it."""
    half = end[2] / 2 + 0.02
    x, y = (end + away * (radius + POST + 0.004))[:2]
    return Prop("post", "box", grey, Texture.PLANKS, (POST, POST, half), 0.4, (float(x), float(y), float(half)))
