"""Topple: a stack falls over, because it is built off balance or because something hits it."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import GRAVITY
from phys4d.simulation.stage import staging


def topple(random: np.random.Generator) -> RigidScene:
    """Draws a scene: 40 % off balance, 40 % hit by a flying ball, 20 % by a rolling one."""
    view = staging.view(random, distance=(1.3, 1.6), target_height=0.33)
    room, light = staging.room(random), staging.light(random)
    axes = view.level_axes()
    kind = str(random.choice(["balance", "flying", "rolling"], p=[0.4, 0.4, 0.2]))
    count = int(random.integers(2, 5))
    names = staging.colours(random, count + 1)
    side = random.choice([-1, 1])
    direction = staging.heading(axes, random.uniform(-0.4, 0.4)) * side
    foot = axes[0] * side * random.uniform(-0.15, 0.1) + axes[1] * random.uniform(-0.05, 0.3)
    stack = _stack(random, names[1:], foot, direction, leans=kind == "balance")
    event: Event = "topples"
    if kind != "balance":
        event = "knocks over"
        stack = (_striker(random, names[0], stack, direction, axes, flying=kind == "flying"), *stack)
    return RigidScene(family="topple", event=event, bodies=stack, room=room, view=view, light=light)


def _stack(
    random: np.random.Generator, names: list[str], foot: np.ndarray, direction: np.ndarray, *, leans: bool
) -> tuple[Body, ...]:
    """Bodies from the floor up, at most 0.8 m high; a leaning one is out of balance over the lowest body's edge."""
    half = random.uniform(0.11, 0.14) if len(names) < 4 else random.uniform(0.095, 0.11)
    yaw = np.arctan2(direction[1], direction[0])
    shapes: list[Shape] = ["box", "cylinder"]
    bodies: list[Body] = []
    height, place = 0.0, foot
    materials = ("wood", "clay", "steel", "marble", "plastic") if leans else ("wood", "plastic", "rubber")
    for number, name in enumerate(names):
        shape = shapes[0 if leans else random.choice(2, p=[0.7, 0.3])]
        wide, high = half * random.uniform(0.85, 1.05), half * random.uniform(0.8, 1.1)
        size = (wide, wide, high) if shape == "box" else (wide, high)
        if number == 1 and leans:
            place = foot + direction * bodies[0].size[0] * random.uniform(1.15, 1.45)
        elif number:
            place = place + direction * half * (random.uniform(0.05, 0.25) if leans else random.uniform(-0.12, 0.12))
        position = place + np.array([0, 0, height + high])
        turn = staging.turned(yaw + random.uniform(-0.1, 0.1))
        bodies.append(staging.body(random, shape, name, size, position, quaternion=turn, materials=materials))
        height += 2 * high
    return tuple(bodies)


def _striker(
    random: np.random.Generator,
    name: str,
    stack: tuple[Body, ...],
    direction: np.ndarray,
    axes: np.ndarray,
    *,
    flying: bool,
) -> Body:
    """A ball that reaches the stack after 0.04 to 0.1 s, one that flies at its upper half."""
    radius = random.uniform(0.1, 0.13) if flying else random.uniform(0.13, 0.16)
    level = axes @ direction * random.uniform(1.8, 2.6)
    velocity = staging.to_tenths(level[0], level[1], random.choice([0.0, 0.5, 1.0]) if flying else 0.0)
    time = random.uniform(0.04, 0.1)
    aim = stack[-1 if flying else 0]
    height = radius
    if flying:
        height = aim.position[2] - velocity[2] * time + GRAVITY * time**2 / 2
    speed = np.hypot(velocity[0], velocity[1])
    back = direction * (aim.size[0] + radius + speed * time)
    position = np.array([aim.position[0], aim.position[1], 0.0]) - back
    position[2] = max(height, radius)
    materials = ("rubber", "steel", "marble") if flying else ("steel", "marble")
    return staging.body(
        random, "ball", name, (radius,), position, velocity=velocity, rolling=not flying, materials=materials
    )
