"""Fall and bounce: a body falls from rest or flying, on the floor or onto another body that rests there."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import COMMON


def fall(random: np.random.Generator) -> RigidScene:
    """Draws a scene: 35 % from rest, 30 % flying with a stated velocity, 35 % onto another body."""
    view = staging.view(random)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    kind = random.choice(["rest", "flying", "onto"], p=[0.35, 0.3, 0.35])
    axes = view.level_axes()
    if kind == "onto":
        bodies = _onto(random, names, axes)
        return RigidScene(family="fall", event="falls onto", bodies=bodies, room=room, view=view, light=light)
    shape, radius = _shape(random), random.uniform(0.17, 0.25)
    velocity = np.zeros(3)
    side = random.uniform(-0.35, 0.35)
    if kind == "flying":
        sign = random.choice([-1, 1])
        away, up = random.uniform(-0.5, 0.5), random.uniform(-1, 1)
        velocity = staging.to_tenths(sign * random.uniform(0.5, 1.4), away, up)
        side = -sign * random.uniform(0.1, 0.45)
    height = random.uniform(0.55, 0.88) - 0.12 * max(velocity[2], 0)
    position = np.array([side, random.uniform(-0.15, 0.35), height]) @ axes
    falling = staging.body(
        random,
        shape,
        names[0],
        staging.size_of(shape, radius),
        position,
        quaternion=_orientation(random, shape),
        velocity=velocity,
        # What can tumble is of a material that bounces little, so that its way can be foreseen.
        materials=COMMON if shape == "ball" else ("wood", "clay"),
    )
    return RigidScene(family="fall", event="falls", bodies=(falling,), room=room, view=view, light=light)


def _onto(random: np.random.Generator, names: list[str], axes: np.ndarray) -> tuple[Body, Body]:
    shapes: list[Shape] = ["box", "cylinder", "ball"]
    below_shape = shapes[random.choice(3, p=[0.5, 0.25, 0.25])]
    below_size = staging.size_of(below_shape, random.uniform(0.18, 0.23))
    radius = random.uniform(0.15, 0.2)
    side, away = random.uniform(-0.3, 0.3), random.uniform(-0.1, 0.3)
    below_height = staging.standing(below_shape, below_size)
    # Off to one side by a share that shows, so that it is plain which way the upper one will go.
    offset = random.choice([-1, 1]) * random.uniform(0.25, 0.75) * below_size[0]
    low = 2 * below_height + radius + 0.1
    height = random.uniform(low, max(low + 0.08, 0.9))
    above = np.array([side + offset, away + random.uniform(-0.04, 0.04), height]) @ axes
    below = np.array([side, away, below_height]) @ axes
    yaw = staging.turned(random.uniform(0, np.pi / 2))
    falling = staging.body(
        random, "ball", names[0], staging.size_of("ball", radius), above, quaternion=yaw, materials=COMMON
    )
    resting = staging.body(random, below_shape, names[1], below_size, below, quaternion=yaw, materials=COMMON)
    return falling, resting


def _shape(random: np.random.Generator) -> Shape:
    shapes: list[Shape] = ["ball", "box", "cylinder", "capsule"]
    return shapes[random.choice(4, p=[0.6, 0.2, 0.1, 0.1])]


def _orientation(random: np.random.Generator, shape: Shape) -> np.ndarray:
    """Balls any way up (their texture turns with them); others upright or with a tilt that shows."""
    yaw, azimuth = random.uniform(0, np.pi), random.uniform(0, 2 * np.pi)
    if shape == "ball":
        return staging.turned(yaw, random.uniform(0, np.pi), azimuth)
    if shape == "capsule":
        return staging.turned(yaw, random.uniform(np.pi / 3, np.pi / 2), azimuth)
    return staging.turned(yaw, random.choice([0.0, 1.0]) * random.uniform(0.15, 0.4), azimuth)
