"""Pendulum: a body on a rod swings into another one. The rod hangs on a beam that sticks out of the wall."""

import numpy as np

from phys4d.simulation.body import Body, Colour, Prop, Rod, Shape
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted

ROD_RADIUS, BEAM_RADIUS = 0.012, 0.02
FRICTION = 0.5  # of the beam


def pendulum(random: np.random.Generator) -> RigidScene:
    """Draws a scene: 70 % start from rest at 35 to 60 degrees, 30 % hang and already swing."""
    view = staging.view(random, distance=(1.35, 1.6), target_height=0.36)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    swinging = bool(random.uniform() < 0.3)
    side = random.choice([-1, 1])
    # A stated velocity is along the camera's axes, exactly.
    direction = staging.heading(axes, 0.0 if swinging else random.uniform(-0.45, 0.45)) * side
    length, radius = random.uniform(0.42, 0.58), random.uniform(0.12, 0.16)
    bottom = axes[0] * side * random.uniform(-0.12, 0.08) + axes[1] * random.uniform(-0.05, 0.25)
    pivot = bottom + np.array([0, 0, length + radius + random.uniform(0.01, 0.06)])
    grey = muted(random, 0.3, 0.5)
    velocity = np.zeros(3)
    angle = random.uniform(0.6, 1.05)
    if swinging:
        velocity, angle = staging.to_tenths(side * random.uniform(1.6, 2.4), 0, 0), 0.0
    bob = _bob(random, names[0], radius, pivot, direction, angle, velocity, length, grey)
    target = _target(random, names[1], bottom, direction, radius, swinging)
    beam = _beam(pivot, np.cross((0.0, 0.0, 1.0), direction), room.depth, grey)
    return RigidScene(
        family="pendulum", event="swings into", bodies=(bob, target), room=room, view=view, light=light, props=(beam,)
    )


def _bob(
    random: np.random.Generator,
    name: str,
    radius: float,
    pivot: np.ndarray,
    direction: np.ndarray,
    angle: float,
    velocity: np.ndarray,
    length: float,
    grey: Colour,
) -> Body:
    """The body on the rod, pulled back against `direction` by radians `angle`."""
    shapes: list[Shape] = ["ball", "box"]
    shape = shapes[random.choice(2, p=[0.75, 0.25])]
    size = (radius,) if shape == "ball" else (0.85 * radius,) * 3
    hanging = np.sin(angle) * -direction + np.array([0, 0, -np.cos(angle)])
    x, y, z = (float(value) for value in np.cross((0.0, 0.0, 1.0), direction))
    rod = Rod(length, ROD_RADIUS, (x, y, z), grey)
    return staging.body(
        random,
        shape,
        name,
        size,
        pivot + length * hanging,
        quaternion=staging.pitched(direction, angle),
        velocity=velocity,
        rod=rod,
        materials=("steel", "marble", "rubber", "wood"),
    )


def _target(
    random: np.random.Generator, name: str, bottom: np.ndarray, direction: np.ndarray, radius: float, swinging: bool
) -> Body:
    """A body on the floor just beyond the lowest point of the swing."""
    shapes: list[Shape] = ["box", "ball", "cylinder"]
    shape = shapes[random.choice(3, p=[0.45, 0.3, 0.25])]
    size = staging.size_of(shape, random.uniform(0.15, 0.2))
    gap = random.uniform(0.1, 0.2) if swinging else random.uniform(-0.1, 0.04)
    position = bottom + direction * (radius + size[0] + gap) + np.array([0, 0, staging.standing(shape, size)])
    yaw = np.arctan2(direction[1], direction[0]) + random.uniform(-0.3, 0.3)
    return staging.body(random, shape, name, size, position, quaternion=staging.turned(yaw))


def _beam(pivot: np.ndarray, axis: np.ndarray, depth: float, grey: Colour) -> Prop:
    """A round bar from a little before the pivot into the wall at y = `depth`, along the level hinge axis."""
    into = axis if axis[1] > 0 else -axis
    start = pivot - 0.05 * into
    reach = (depth + 0.2 - start[1]) / into[1]
    x, y, z = (float(value) for value in start + into * reach / 2)
    w, i, j, k = (float(value) for value in staging.pitched(into, np.pi / 2))
    size = (BEAM_RADIUS, float(reach / 2))
    return Prop("beam", "cylinder", grey, Texture.PLAIN, size, FRICTION, (x, y, z), (w, i, j, k))
