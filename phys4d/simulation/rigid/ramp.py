"""Ramp: a body rolls or slides down an inclined plank, onto the floor or into another body at rest."""

import numpy as np

from phys4d.simulation.body import Body, Prop, Shape
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted
from phys4d.simulation.shapes import half_height

FRICTION = 0.2  # of the plank: low, so that steel, marble and plastic slide on it
SLIDING = ("steel", "marble", "plastic")
ROLLING = (*SLIDING, "rubber", "wood")
THICKNESS, HALF_WIDTH = 0.04, 0.2


def ramp(rng: np.random.Generator) -> RigidScene:
    """Samples a scene: 70 % roll, 30 % slide; half of them into a resting body after about a third of a second."""
    view = sampling.view(rng, distance=(1.5, 1.75), target_height=0.28)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    side = rng.choice([-1, 1])
    downhill = poses.heading(axes, rng.uniform(-0.45, 0.45)) * side
    shapes: list[Shape] = ["ball", "cylinder", "box"]
    shape = shapes[rng.choice(3, p=[0.5, 0.2, 0.3])]
    slope = rng.uniform(0.52, 0.65) if shape == "box" else rng.uniform(0.38, 0.6)
    length = rng.uniform(0.9, 1.05)
    radius = rng.uniform(0.13, 0.17)
    into = bool(rng.uniform() < 0.5)
    run = rng.uniform(0.25, 0.4) if into else length - radius - 0.05
    low = downhill * rng.uniform(0.15, 0.3) + axes[1] * rng.uniform(-0.05, 0.25)
    body = _on_the_plank(rng, shape, names[0], radius, low, downhill, slope, min(run, length - radius - 0.05))
    bodies = (body, _in_the_way(rng, names[1], low, downhill, body)) if into else (body,)
    event: Event = "slides down" if shape == "box" else "rolls down"
    plank = _plank(rng, low, downhill, slope, length)
    return RigidScene(family="ramp", event=event, bodies=bodies, room=room, view=view, light=light, props=plank)


def _on_the_plank(
    rng: np.random.Generator,
    shape: Shape,
    colour: str,
    radius: float,
    low: np.ndarray,
    downhill: np.ndarray,
    slope: float,
    run: float,
) -> Body:
    """A body on the plank.

    low: [3], world metres, the plank's low edge.
    downhill: [3], level unit vector.
    slope: radians.
    run: metres uphill of the low edge.
    """
    size = {"ball": (radius,), "cylinder": (radius, 0.8 * radius), "box": (0.95 * radius, 0.8 * radius, 0.6 * radius)}
    uphill = -np.cos(slope) * downhill + np.array([0, 0, np.sin(slope)])
    normal = np.sin(slope) * downhill + np.array([0, 0, np.cos(slope)])
    height = size[shape][-1] if shape == "box" else radius
    across = np.cross((0.0, 0.0, 1.0), downhill)
    turns = {
        "ball": poses.yaw_tilt(rng.uniform(0, np.pi), rng.uniform(0, np.pi), rng.uniform(0, np.pi)),
        "cylinder": poses.heading_pitch(across, np.pi / 2),
        "box": poses.heading_pitch(downhill, slope),
    }
    return sampling.body(
        rng,
        shape,
        colour,
        size[shape],
        low + uphill * run + normal * height,
        quaternion=turns[shape],
        materials=SLIDING if shape == "box" else ROLLING,
    )


def _in_the_way(rng: np.random.Generator, colour: str, low: np.ndarray, downhill: np.ndarray, body: Body) -> Body:
    """A body on the floor, just far enough from the plank not to touch it."""
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[rng.integers(3)]
    size = sampling.size_for_radius(shape, rng.uniform(0.13, 0.18))
    away = downhill * (size[0] + rng.uniform(0.02, 0.06))
    position = low + away + np.array([0, 0, half_height(shape, size)])
    yaw = np.arctan2(downhill[1], downhill[0])
    return sampling.body(rng, shape, colour, size, position, quaternion=poses.yaw_tilt(yaw))


def _plank(
    rng: np.random.Generator, low: np.ndarray, downhill: np.ndarray, slope: float, length: float
) -> tuple[Prop, Prop]:
    """The plank, whose upper side meets the floor at `low`, and the block that supports it."""
    rgb = muted(rng, 0.55, 0.85)
    uphill = -np.cos(slope) * downhill + np.array([0, 0, np.sin(slope)])
    normal = np.sin(slope) * downhill + np.array([0, 0, np.cos(slope)])
    middle = low + uphill * length / 2 - normal * THICKNESS / 2
    half = 0.06
    # The block touches the plank from below with its edge on the low side.
    behind = length * np.cos(slope) - 2.5 * half
    top = (behind - half) * np.tan(slope) - THICKNESS / np.cos(slope)
    foot = low - behind * downhill
    yaw = poses.yaw_tilt(np.arctan2(downhill[1], downhill[0]))
    plank_size = (length / 2, HALF_WIDTH, THICKNESS / 2)
    return (
        _box("ramp", rgb, plank_size, middle, poses.heading_pitch(downhill, slope)),
        _box("block", rgb, (half, 0.8 * HALF_WIDTH, top / 2), foot + np.array([0, 0, top / 2]), yaw),
    )


def _box(
    name: str, rgb: tuple[float, float, float], size: tuple[float, ...], position: np.ndarray, quaternion: np.ndarray
) -> Prop:
    x, y, z = (float(value) for value in position)
    w, i, j, k = (float(value) for value in quaternion)
    return Prop(name, "box", rgb, Texture.PLANKS, tuple(map(float, size)), FRICTION, (x, y, z), (w, i, j, k))
