"""Fall: a body falls from rest or flying, onto the floor or onto another body at rest."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import COMMON
from phys4d.simulation.shapes import half_height


def fall(rng: np.random.Generator) -> RigidScene:
    """Samples a scene: 35 % from rest, 30 % flying with a stated velocity, 35 % onto another body."""
    view = sampling.view(rng)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    kind = rng.choice(["rest", "flying", "onto"], p=[0.35, 0.3, 0.35])
    axes = view.level_axes()
    if kind == "onto":
        bodies = _onto(rng, names, axes)
        return RigidScene(family="fall", event="falls onto", bodies=bodies, room=room, view=view, light=light)
    shape, radius = _shape(rng), rng.uniform(0.17, 0.25)
    velocity = np.zeros(3)
    side = rng.uniform(-0.35, 0.35)
    if kind == "flying":
        sign = rng.choice([-1, 1])
        away, up = rng.uniform(-0.5, 0.5), rng.uniform(-1, 1)
        velocity = poses.to_tenths(sign * rng.uniform(0.5, 1.4), away, up)
        side = -sign * rng.uniform(0.1, 0.45)
    height = rng.uniform(0.55, 0.88) - 0.12 * max(velocity[2], 0)
    position = np.array([side, rng.uniform(-0.15, 0.35), height]) @ axes
    falling = sampling.body(
        rng,
        shape,
        names[0],
        sampling.size_for_radius(shape, radius),
        position,
        quaternion=_orientation(rng, shape),
        velocity=velocity,
        # Bodies that can tumble bounce little, so that their path is predictable.
        materials=COMMON if shape == "ball" else ("wood", "clay"),
    )
    return RigidScene(family="fall", event="falls", bodies=(falling,), room=room, view=view, light=light)


def _onto(rng: np.random.Generator, names: list[str], axes: np.ndarray) -> tuple[Body, Body]:
    shapes: list[Shape] = ["box", "cylinder", "ball"]
    below_shape = shapes[rng.choice(3, p=[0.5, 0.25, 0.25])]
    below_size = sampling.size_for_radius(below_shape, rng.uniform(0.18, 0.23))
    radius = rng.uniform(0.15, 0.2)
    side, away = rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.3)
    below_height = half_height(below_shape, below_size)
    # Visibly off-centre, so that the direction in which the upper body goes is predictable.
    offset = rng.choice([-1, 1]) * rng.uniform(0.25, 0.75) * below_size[0]
    low = 2 * below_height + radius + 0.1
    height = rng.uniform(low, max(low + 0.08, 0.9))
    above = np.array([side + offset, away + rng.uniform(-0.04, 0.04), height]) @ axes
    below = np.array([side, away, below_height]) @ axes
    yaw = poses.yaw_tilt(rng.uniform(0, np.pi / 2))
    falling = sampling.body(
        rng, "ball", names[0], sampling.size_for_radius("ball", radius), above, quaternion=yaw, materials=COMMON
    )
    resting = sampling.body(rng, below_shape, names[1], below_size, below, quaternion=yaw, materials=COMMON)
    return falling, resting


def _shape(rng: np.random.Generator) -> Shape:
    shapes: list[Shape] = ["ball", "box", "cylinder", "capsule"]
    return shapes[rng.choice(4, p=[0.6, 0.2, 0.1, 0.1])]


def _orientation(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Balls in any orientation (visible by their texture); other shapes upright or visibly tilted."""
    yaw, azimuth = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    if shape == "ball":
        return poses.yaw_tilt(yaw, rng.uniform(0, np.pi), azimuth)
    if shape == "capsule":
        return poses.yaw_tilt(yaw, rng.uniform(np.pi / 3, np.pi / 2), azimuth)
    return poses.yaw_tilt(yaw, rng.choice([0.0, 1.0]) * rng.uniform(0.15, 0.4), azimuth)
