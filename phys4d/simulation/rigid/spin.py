"""Spin: what turns on the floor, alone or into another body; what rolls; what slides with top- or backspin."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import MATERIALS


def spin(random: np.random.Generator) -> RigidScene:
    """Draws a scene: 30 % turn on the floor, 20 % turn into a body, 20 % roll into one, 30 % top- or backspin."""
    view = staging.view(random, distance=(1.2, 1.45), height=(0.6, 1.05), target_height=0.25)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    kind = str(random.choice(["turn", "swipe", "roll", "topspin", "backspin"], p=[0.3, 0.2, 0.2, 0.1, 0.2]))
    place = axes[0] * random.uniform(-0.15, 0.15) + axes[1] * random.uniform(-0.1, 0.25)
    event: Event = "hits"
    bodies: tuple[Body, ...]
    if kind == "turn":
        event, bodies = "turns", (_turning(random, names[0], place),)
    elif kind == "swipe":
        bodies = _swipe(random, names, place)
    elif kind == "roll":
        bodies = _rolling_cylinder(random, names, axes)
    else:
        event = "speeds up" if kind == "topspin" else "comes back"
        bodies = (_spun_ball(random, names[0], axes, back=kind == "backspin"),)
    return RigidScene(family="spin", event=event, bodies=bodies, room=room, view=view, light=light)


def _turning(random: np.random.Generator, name: str, place: np.ndarray) -> Body:
    """A body that turns about the vertical; it is not round, so that this shows."""
    shapes: list[Shape] = ["box", "capsule"]
    shape = shapes[random.integers(2)]
    if shape == "box":
        wide = random.uniform(0.17, 0.24)
        size: tuple[float, ...] = (wide, wide * random.uniform(0.4, 0.7), random.uniform(0.1, 0.16))
        turn, height = staging.turned(random.uniform(0, np.pi)), size[2]
    else:
        size, turn, height = _lying_capsule(random)
    rate = random.choice([-1, 1]) * random.uniform(1.6, 2.5)
    position = place + np.array([0, 0, height])
    materials = ("steel", "plastic", "marble", "wood")
    turning = float(np.round(rate, 1))
    return staging.body(random, shape, name, size, position, quaternion=turn, turning=turning, materials=materials)


def _lying_capsule(random: np.random.Generator) -> tuple[tuple[float, ...], np.ndarray, float]:
    radius = random.uniform(0.09, 0.11)
    yaw = random.uniform(0, np.pi)
    lying = staging.pitched(np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.pi / 2)
    return (radius, random.uniform(0.14, 0.19)), lying, radius


def _swipe(random: np.random.Generator, names: list[str], place: np.ndarray) -> tuple[Body, Body]:
    """A turning capsule and a body at rest that its end reaches after a fifth to a half of a turn."""
    radius, half = random.uniform(0.08, 0.1), random.uniform(0.18, 0.22)
    turning = float(np.round(random.choice([-1, 1]) * random.uniform(1.1, 1.7), 1))
    yaw = random.uniform(0, 2 * np.pi)
    lying = staging.pitched(np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.pi / 2)
    materials = ("wood", "plastic", "marble")
    position = place + np.array([0, 0, radius])
    striker = staging.body(
        random, "capsule", names[0], (radius, half), position, quaternion=lying, turning=turning, materials=materials
    )
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[random.integers(3)]
    size = staging.size_of(shape, random.uniform(0.1, 0.14))
    angle = yaw + np.sign(turning) * random.uniform(1.0, 1.9)
    beside = half + random.uniform(0.0, 0.05) + radius
    where = place + beside * np.array([np.cos(angle), np.sin(angle), 0.0])
    where = where + np.array([0, 0, staging.standing(shape, size)])
    target = staging.body(
        random, shape, names[1], size, where, quaternion=staging.turned(angle), materials=("clay", "marble", "rubber")
    )
    return striker, target


def _rolling_cylinder(random: np.random.Generator, names: list[str], axes: np.ndarray) -> tuple[Body, Body]:
    """A cylinder on its side that rolls into a body at rest after 0.12 to 0.25 s."""
    radius, half = random.uniform(0.12, 0.17), random.uniform(0.12, 0.2)
    side = random.choice([-1, 1])
    velocity = staging.to_tenths(side * random.uniform(1.5, 2.4), random.uniform(-0.7, 0.7), 0.0)
    speed = np.hypot(velocity[0], velocity[1])
    direction = velocity @ axes / speed
    shapes: list[Shape] = ["ball", "box"]
    shape = shapes[random.integers(2)]
    size = staging.size_of(shape, random.uniform(0.13, 0.18))
    meet = axes[0] * side * random.uniform(-0.05, 0.15) + axes[1] * random.uniform(-0.05, 0.3)
    position = meet - direction * (radius + size[0] + speed * random.uniform(0.12, 0.25)) + np.array([0, 0, radius])
    lying = staging.pitched(np.cross((0.0, 0.0, 1.0), direction), np.pi / 2)
    striker = staging.body(
        random, "cylinder", names[0], (radius, half), position, quaternion=lying, velocity=velocity, rolling=True
    )
    resting = meet + np.array([0, 0, staging.standing(shape, size)])
    yaw = staging.turned(np.arctan2(direction[1], direction[0]) + random.uniform(-0.3, 0.3))
    return striker, staging.body(random, shape, names[1], size, resting, quaternion=yaw)


def _spun_ball(random: np.random.Generator, name: str, axes: np.ndarray, *, back: bool) -> Body:
    """A ball that slides and spins so fast that the floor turns it back, or drives it on, within the clip."""
    radius = random.uniform(0.16, 0.22)
    side = random.choice([-1, 1])
    speed = random.uniform(0.7, 1.2) if back else random.uniform(0.5, 0.9)
    velocity = staging.to_tenths(side * speed, random.uniform(-0.3, 0.3), 0.0)
    turns = -random.uniform(3.2, 4.8) if back else random.uniform(2.2, 3.2)
    position = -axes[0] * side * random.uniform(0.1, 0.3) + axes[1] * random.uniform(-0.1, 0.3)
    position = position + np.array([0, 0, radius])
    tilt = staging.turned(random.uniform(0, np.pi), random.uniform(0, np.pi), random.uniform(0, np.pi))
    grips = [material for material, kind in MATERIALS.items() if kind.friction[0] > 0.4]
    return staging.body(
        random,
        "ball",
        name,
        (radius,),
        position,
        quaternion=tilt,
        velocity=velocity,
        topspin=float(np.round(turns, 1)),
        materials=grips,
    )
