"""Ramp: a body rolls or slides down an inclined plank, onto the floor or into another body that rests there."""

import numpy as np

from phys4d.simulation.body import Body, Prop, Shape
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted

FRICTION = 0.2  # of the plank, polished: what is wood, steel, marble or plastic slides where it is steep
SLIDING = ("steel", "marble", "plastic")
ROLLING = (*SLIDING, "rubber", "wood")
THICKNESS, HALF_WIDTH = 0.04, 0.2


def ramp(random: np.random.Generator) -> RigidScene:
    """Draws a scene: 70 % roll, 30 % slide; half of all into a resting body after about a third of a second."""
    view = staging.view(random, distance=(1.5, 1.75), target_height=0.28)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    side = random.choice([-1, 1])
    downhill = staging.heading(axes, random.uniform(-0.45, 0.45)) * side
    shapes: list[Shape] = ["ball", "cylinder", "box"]
    shape = shapes[random.choice(3, p=[0.5, 0.2, 0.3])]
    slope = random.uniform(0.52, 0.65) if shape == "box" else random.uniform(0.38, 0.6)
    length = random.uniform(0.9, 1.05)
    radius = random.uniform(0.13, 0.17)
    into = bool(random.uniform() < 0.5)
    run = random.uniform(0.25, 0.4) if into else length - radius - 0.05
    low = downhill * random.uniform(0.15, 0.3) + axes[1] * random.uniform(-0.05, 0.25)
    body = _on_the_plank(random, shape, names[0], radius, low, downhill, slope, min(run, length - radius - 0.05))
    bodies = (body, _in_the_way(random, names[1], low, downhill, body)) if into else (body,)
    event: Event = "slides down" if shape == "box" else "rolls down"
    plank = _plank(random, low, downhill, slope, length)
    return RigidScene(family="ramp", event=event, bodies=bodies, room=room, view=view, light=light, props=plank)


def _on_the_plank(
    random: np.random.Generator,
    shape: Shape,
    colour: str,
    radius: float,
    low: np.ndarray,
    downhill: np.ndarray,
    slope: float,
    run: float,
) -> Body:
    """A body that touches the plank `run` metres uphill of its low edge, radians `slope` steep."""
    size = {"ball": (radius,), "cylinder": (radius, 0.8 * radius), "box": (0.95 * radius, 0.8 * radius, 0.6 * radius)}
    uphill = -np.cos(slope) * downhill + np.array([0, 0, np.sin(slope)])
    normal = np.sin(slope) * downhill + np.array([0, 0, np.cos(slope)])
    height = size[shape][-1] if shape == "box" else radius
    across = np.cross((0.0, 0.0, 1.0), downhill)
    turns = {
        "ball": staging.turned(random.uniform(0, np.pi), random.uniform(0, np.pi), random.uniform(0, np.pi)),
        "cylinder": staging.pitched(across, np.pi / 2),
        "box": staging.pitched(downhill, slope),
    }
    return staging.body(
        random,
        shape,
        colour,
        size[shape],
        low + uphill * run + normal * height,
        quaternion=turns[shape],
        materials=SLIDING if shape == "box" else ROLLING,
    )


def _in_the_way(random: np.random.Generator, colour: str, low: np.ndarray, downhill: np.ndarray, body: Body) -> Body:
    """A body on the floor, just far enough from the plank to stand free of it."""
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[random.integers(3)]
    size = staging.size_of(shape, random.uniform(0.13, 0.18))
    away = downhill * (size[0] + random.uniform(0.02, 0.06))
    position = low + away + np.array([0, 0, staging.standing(shape, size)])
    yaw = np.arctan2(downhill[1], downhill[0])
    return staging.body(random, shape, colour, size, position, quaternion=staging.turned(yaw))


def _plank(
    random: np.random.Generator, low: np.ndarray, downhill: np.ndarray, slope: float, length: float
) -> tuple[Prop, Prop]:
    """The plank, whose upper side meets the floor at `low`, and the block that holds it up."""
    rgb = muted(random, 0.55, 0.85)
    uphill = -np.cos(slope) * downhill + np.array([0, 0, np.sin(slope)])
    normal = np.sin(slope) * downhill + np.array([0, 0, np.cos(slope)])
    middle = low + uphill * length / 2 - normal * THICKNESS / 2
    half = 0.06
    # The block's edge on the low side touches the plank from below.
    behind = length * np.cos(slope) - 2.5 * half
    top = (behind - half) * np.tan(slope) - THICKNESS / np.cos(slope)
    foot = low - behind * downhill
    yaw = staging.turned(np.arctan2(downhill[1], downhill[0]))
    plank_size = (length / 2, HALF_WIDTH, THICKNESS / 2)
    return (
        _box("ramp", rgb, plank_size, middle, staging.pitched(downhill, slope)),
        _box("block", rgb, (half, 0.8 * HALF_WIDTH, top / 2), foot + np.array([0, 0, top / 2]), yaw),
    )


def _box(
    name: str, rgb: tuple[float, float, float], size: tuple[float, ...], position: np.ndarray, quaternion: np.ndarray
) -> Prop:
    x, y, z = (float(value) for value in position)
    w, i, j, k = (float(value) for value in quaternion)
    return Prop(name, "box", rgb, Texture.PLANKS, tuple(map(float, size)), FRICTION, (x, y, z), (w, i, j, k))
