"""Topple: a stack falls over because it is out of balance or because a ball hits it."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import GRAVITY
from phys4d.simulation.scenery import poses, sampling


def topple(rng: np.random.Generator) -> RigidScene:
    """Samples a scene: 40 % out of balance, 40 % hit by a flying ball, 20 % by a rolling ball."""
    view = sampling.view(rng, distance=(1.3, 1.6), target_height=0.33)
    room, light = sampling.room(rng), sampling.light(rng)
    axes = view.level_axes()
    kind = str(rng.choice(["balance", "flying", "rolling"], p=[0.4, 0.4, 0.2]))
    count = int(rng.integers(2, 5))
    names = sampling.colours(rng, count + 1)
    side = rng.choice([-1, 1])
    direction = poses.heading(axes, rng.uniform(-0.4, 0.4)) * side
    foot = axes[0] * side * rng.uniform(-0.15, 0.1) + axes[1] * rng.uniform(-0.05, 0.3)
    stack = _stack(rng, names[1:], foot, direction, leans=kind == "balance")
    event: Event = "topples"
    if kind != "balance":
        event = "knocks over"
        stack = (_striker(rng, names[0], stack, direction, axes, flying=kind == "flying"), *stack)
    return RigidScene(family="topple", event=event, bodies=stack, room=room, view=view, light=light)


def _stack(
    rng: np.random.Generator, names: list[str], foot: np.ndarray, direction: np.ndarray, *, leans: bool
) -> tuple[Body, ...]:
    """Bodies from the floor up, at most 0.8 m high; a leaning stack is out of balance over the lowest body's edge."""
    half = rng.uniform(0.11, 0.14) if len(names) < 4 else rng.uniform(0.095, 0.11)
    yaw = np.arctan2(direction[1], direction[0])
    shapes: list[Shape] = ["box", "cylinder"]
    bodies: list[Body] = []
    height, place = 0.0, foot
    materials = ("wood", "clay", "steel", "marble", "plastic") if leans else ("wood", "plastic", "rubber")
    for number, name in enumerate(names):
        shape = shapes[0 if leans else rng.choice(2, p=[0.7, 0.3])]
        wide, high = half * rng.uniform(0.85, 1.05), half * rng.uniform(0.8, 1.1)
        size = (wide, wide, high) if shape == "box" else (wide, high)
        if number == 1 and leans:
            place = foot + direction * bodies[0].size[0] * rng.uniform(1.15, 1.45)
        elif number:
            place = place + direction * half * (rng.uniform(0.05, 0.25) if leans else rng.uniform(-0.12, 0.12))
        position = place + np.array([0, 0, height + high])
        turn = poses.yaw_tilt(yaw + rng.uniform(-0.1, 0.1))
        bodies.append(sampling.body(rng, shape, name, size, position, quaternion=turn, materials=materials))
        height += 2 * high
    return tuple(bodies)


def _striker(
    rng: np.random.Generator,
    name: str,
    stack: tuple[Body, ...],
    direction: np.ndarray,
    axes: np.ndarray,
    *,
    flying: bool,
) -> Body:
    """A ball that reaches the stack after 0.04 to 0.1 s; a flying ball aims at the stack's upper half."""
    radius = rng.uniform(0.1, 0.13) if flying else rng.uniform(0.13, 0.16)
    level = axes @ direction * rng.uniform(1.8, 2.6)
    velocity = poses.to_tenths(level[0], level[1], rng.choice([0.0, 0.5, 1.0]) if flying else 0.0)
    time = rng.uniform(0.04, 0.1)
    aim = stack[-1 if flying else 0]
    height = radius
    if flying:
        height = aim.position[2] - velocity[2] * time + GRAVITY * time**2 / 2
    speed = np.hypot(velocity[0], velocity[1])
    back = direction * (aim.size[0] + radius + speed * time)
    position = np.array([aim.position[0], aim.position[1], 0.0]) - back
    position[2] = max(height, radius)
    materials = ("rubber", "steel", "marble") if flying else ("steel", "marble")
    return sampling.body(
        rng, "ball", name, (radius,), position, velocity=velocity, rolling=not flying, materials=materials
    )
