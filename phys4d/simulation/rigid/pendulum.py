"""Pendulum: a body on a rod swings into another body. The rod hangs from a beam that projects from the wall."""

import numpy as np

from phys4d.simulation.body import Body, Colour, Prop, Rod, Shape
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted
from phys4d.simulation.shapes import half_height

ROD_RADIUS, BEAM_RADIUS = 0.012, 0.02
FRICTION = 0.5  # of the beam


def pendulum(rng: np.random.Generator) -> RigidScene:
    """Samples a scene: 70 % start from rest at 35 to 60 degrees, 30 % start at the bottom with a velocity."""
    view = sampling.view(rng, distance=(1.35, 1.6), target_height=0.36)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    swinging = bool(rng.uniform() < 0.3)
    side = rng.choice([-1, 1])
    # A swing with a stated velocity is exactly along a camera axis.
    direction = poses.heading(axes, 0.0 if swinging else rng.uniform(-0.45, 0.45)) * side
    length, radius = rng.uniform(0.42, 0.58), rng.uniform(0.12, 0.16)
    bottom = axes[0] * side * rng.uniform(-0.12, 0.08) + axes[1] * rng.uniform(-0.05, 0.25)
    pivot = bottom + np.array([0, 0, length + radius + rng.uniform(0.01, 0.06)])
    grey = muted(rng, 0.3, 0.5)
    velocity = np.zeros(3)
    angle = rng.uniform(0.6, 1.05)
    if swinging:
        velocity, angle = poses.to_tenths(side * rng.uniform(1.6, 2.4), 0, 0), 0.0
    bob = _bob(rng, names[0], radius, pivot, direction, angle, velocity, length, grey)
    target = _target(rng, names[1], bottom, direction, radius, swinging)
    beam = _beam(pivot, np.cross((0.0, 0.0, 1.0), direction), room.depth, grey)
    return RigidScene(
        family="pendulum", event="swings into", bodies=(bob, target), room=room, view=view, light=light, props=(beam,)
    )


def _bob(
    rng: np.random.Generator,
    name: str,
    radius: float,
    pivot: np.ndarray,
    direction: np.ndarray,
    angle: float,
    velocity: np.ndarray,
    length: float,
    grey: Colour,
) -> Body:
    """The body on the rod, displaced against `direction` by `angle` radians."""
    shapes: list[Shape] = ["ball", "box"]
    shape = shapes[rng.choice(2, p=[0.75, 0.25])]
    size = (radius,) if shape == "ball" else (0.85 * radius,) * 3
    hanging = np.sin(angle) * -direction + np.array([0, 0, -np.cos(angle)])
    x, y, z = (float(value) for value in np.cross((0.0, 0.0, 1.0), direction))
    rod = Rod(length, ROD_RADIUS, (x, y, z), grey)
    return sampling.body(
        rng,
        shape,
        name,
        size,
        pivot + length * hanging,
        quaternion=poses.heading_pitch(direction, angle),
        velocity=velocity,
        rod=rod,
        materials=("steel", "marble", "rubber", "wood"),
    )


def _target(
    rng: np.random.Generator, name: str, bottom: np.ndarray, direction: np.ndarray, radius: float, swinging: bool
) -> Body:
    """A body on the floor just behind the lowest point of the swing."""
    shapes: list[Shape] = ["box", "ball", "cylinder"]
    shape = shapes[rng.choice(3, p=[0.45, 0.3, 0.25])]
    size = sampling.size_for_radius(shape, rng.uniform(0.15, 0.2))
    gap = rng.uniform(0.1, 0.2) if swinging else rng.uniform(-0.1, 0.04)
    position = bottom + direction * (radius + size[0] + gap) + np.array([0, 0, half_height(shape, size)])
    yaw = np.arctan2(direction[1], direction[0]) + rng.uniform(-0.3, 0.3)
    return sampling.body(rng, shape, name, size, position, quaternion=poses.yaw_tilt(yaw))


def _beam(pivot: np.ndarray, axis: np.ndarray, depth: float, grey: Colour) -> Prop:
    """A round bar along the level hinge axis, from just before the pivot into the wall at y = `depth`."""
    into = axis if axis[1] > 0 else -axis
    start = pivot - 0.05 * into
    reach = (depth + 0.2 - start[1]) / into[1]
    x, y, z = (float(value) for value in start + into * reach / 2)
    w, i, j, k = (float(value) for value in poses.heading_pitch(into, np.pi / 2))
    size = (BEAM_RADIUS, float(reach / 2))
    return Prop("beam", "cylinder", grey, Texture.PLAIN, size, FRICTION, (x, y, z), (w, i, j, k))
