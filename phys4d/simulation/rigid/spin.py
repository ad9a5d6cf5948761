"""Spin: a body turns on the floor, alone or into another; a cylinder rolls; a ball slides with topspin or backspin."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import MATERIALS
from phys4d.simulation.shapes import half_height


def spin(rng: np.random.Generator) -> RigidScene:
    """Samples a scene: 30 % turn alone, 20 % turn into a body, 20 % roll into a body, 30 % topspin or backspin."""
    view = sampling.view(rng, distance=(1.2, 1.45), height=(0.6, 1.05), target_height=0.25)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    kind = str(rng.choice(["turn", "swipe", "roll", "topspin", "backspin"], p=[0.3, 0.2, 0.2, 0.1, 0.2]))
    place = axes[0] * rng.uniform(-0.15, 0.15) + axes[1] * rng.uniform(-0.1, 0.25)
    event: Event = "hits"
    bodies: tuple[Body, ...]
    if kind == "turn":
        event, bodies = "turns", (_turning(rng, names[0], place),)
    elif kind == "swipe":
        bodies = _swipe(rng, names, place)
    elif kind == "roll":
        bodies = _rolling_cylinder(rng, names, axes)
    else:
        event = "speeds up" if kind == "topspin" else "comes back"
        bodies = (_spun_ball(rng, names[0], axes, back=kind == "backspin"),)
    return RigidScene(family="spin", event=event, bodies=bodies, room=room, view=view, light=light)


def _turning(rng: np.random.Generator, name: str, place: np.ndarray) -> Body:
    """A body that turns about the vertical; not round, so that the rotation is visible."""
    shapes: list[Shape] = ["box", "capsule"]
    shape = shapes[rng.integers(2)]
    if shape == "box":
        wide = rng.uniform(0.17, 0.24)
        size: tuple[float, ...] = (wide, wide * rng.uniform(0.4, 0.7), rng.uniform(0.1, 0.16))
        turn, height = poses.yaw_tilt(rng.uniform(0, np.pi)), size[2]
    else:
        size, turn, height = _lying_capsule(rng)
    rate = rng.choice([-1, 1]) * rng.uniform(1.6, 2.5)
    position = place + np.array([0, 0, height])
    materials = ("steel", "plastic", "marble", "wood")
    turning = float(np.round(rate, 1))
    return sampling.body(rng, shape, name, size, position, quaternion=turn, turning=turning, materials=materials)


def _lying_capsule(rng: np.random.Generator) -> tuple[tuple[float, ...], np.ndarray, float]:
    radius = rng.uniform(0.09, 0.11)
    yaw = rng.uniform(0, np.pi)
    lying = poses.heading_pitch(np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.pi / 2)
    return (radius, rng.uniform(0.14, 0.19)), lying, radius


def _swipe(rng: np.random.Generator, names: list[str], place: np.ndarray) -> tuple[Body, Body]:
    """A turning capsule, and a body at rest that its end reaches after a fifth to a half of a turn."""
    radius, half = rng.uniform(0.08, 0.1), rng.uniform(0.18, 0.22)
    turning = float(np.round(rng.choice([-1, 1]) * rng.uniform(1.1, 1.7), 1))
    yaw = rng.uniform(0, 2 * np.pi)
    lying = poses.heading_pitch(np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.pi / 2)
    materials = ("wood", "plastic", "marble")
    position = place + np.array([0, 0, radius])
    striker = sampling.body(
        rng, "capsule", names[0], (radius, half), position, quaternion=lying, turning=turning, materials=materials
    )
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[rng.integers(3)]
    size = sampling.size_for_radius(shape, rng.uniform(0.1, 0.14))
    angle = yaw + np.sign(turning) * rng.uniform(1.0, 1.9)
    beside = half + rng.uniform(0.0, 0.05) + radius
    where = place + beside * np.array([np.cos(angle), np.sin(angle), 0.0])
    where = where + np.array([0, 0, half_height(shape, size)])
    target = sampling.body(
        rng, shape, names[1], size, where, quaternion=poses.yaw_tilt(angle), materials=("clay", "marble", "rubber")
    )
    return striker, target


def _rolling_cylinder(rng: np.random.Generator, names: list[str], axes: np.ndarray) -> tuple[Body, Body]:
    """A lying cylinder that rolls into a body at rest after 0.12 to 0.25 s."""
    radius, half = rng.uniform(0.12, 0.17), rng.uniform(0.12, 0.2)
    side = rng.choice([-1, 1])
    velocity = poses.to_tenths(side * rng.uniform(1.5, 2.4), rng.uniform(-0.7, 0.7), 0.0)
    speed = np.hypot(velocity[0], velocity[1])
    direction = velocity @ axes / speed
    shapes: list[Shape] = ["ball", "box"]
    shape = shapes[rng.integers(2)]
    size = sampling.size_for_radius(shape, rng.uniform(0.13, 0.18))
    meet = axes[0] * side * rng.uniform(-0.05, 0.15) + axes[1] * rng.uniform(-0.05, 0.3)
    position = meet - direction * (radius + size[0] + speed * rng.uniform(0.12, 0.25)) + np.array([0, 0, radius])
    lying = poses.heading_pitch(np.cross((0.0, 0.0, 1.0), direction), np.pi / 2)
    striker = sampling.body(
        rng, "cylinder", names[0], (radius, half), position, quaternion=lying, velocity=velocity, rolling=True
    )
    resting = meet + np.array([0, 0, half_height(shape, size)])
    yaw = poses.yaw_tilt(np.arctan2(direction[1], direction[0]) + rng.uniform(-0.3, 0.3))
    return striker, sampling.body(rng, shape, names[1], size, resting, quaternion=yaw)


def _spun_ball(rng: np.random.Generator, name: str, axes: np.ndarray, *, back: bool) -> Body:
    """A sliding ball with enough spin that friction reverses it (backspin) or accelerates it (topspin) within the clip.
    """
    radius = rng.uniform(0.16, 0.22)
    side = rng.choice([-1, 1])
    speed = rng.uniform(0.7, 1.2) if back else rng.uniform(0.5, 0.9)
    velocity = poses.to_tenths(side * speed, rng.uniform(-0.3, 0.3), 0.0)
    turns = -rng.uniform(3.2, 4.8) if back else rng.uniform(2.2, 3.2)
    position = -axes[0] * side * rng.uniform(0.1, 0.3) + axes[1] * rng.uniform(-0.1, 0.3)
    position = position + np.array([0, 0, radius])
    tilt = poses.yaw_tilt(rng.uniform(0, np.pi), rng.uniform(0, np.pi), rng.uniform(0, np.pi))
    grips = [material for material, kind in MATERIALS.items() if kind.friction[0] > 0.4]
    return sampling.body(
        rng,
        "ball",
        name,
        (radius,),
        position,
        quaternion=tilt,
        velocity=velocity,
        topspin=float(np.round(turns, 1)),
        materials=grips,
    )
