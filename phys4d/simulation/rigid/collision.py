"""Collision: a body rolls or slides into another one that rests or comes towards it."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import COMMON


def collision(random: np.random.Generator) -> RigidScene:
    """Draws a scene: 70 % hit a resting body, 30 % meet a moving one; contact after 0.1 to 0.24 s."""
    view = staging.view(random)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    meeting = bool(random.uniform() < 0.3)
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    striker = shapes[0 if meeting else random.choice(3, p=[0.75, 0.15, 0.1])]
    target = shapes[0 if meeting else random.choice(3, p=[0.55, 0.25, 0.2])]
    sizes = [staging.size_of(shape, random.uniform(0.16, 0.22)) for shape in (striker, target)]
    places, velocities = _courses(random, meeting, reach=sizes[0][0] + sizes[1][0])
    bodies = tuple(
        _on_the_floor(random, shape, size, name, place, velocity, view.level_axes())
        for shape, size, name, place, velocity in zip((striker, target), sizes, names, places, velocities, strict=True)
    )
    event: Event = "meets" if meeting else "hits"
    return RigidScene(family="collision", event=event, bodies=bodies, room=room, view=view, light=light)


def _courses(
    random: np.random.Generator, meeting: bool, *, reach: float
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Places [2] (right, away) in metres and velocities [3] in m/s of two bodies that touch at `reach`.

    Each is set back from where they touch by the way it goes until then.
    """
    side, angle = random.choice([-1, 1]), random.uniform(-0.6, 0.6)
    heading = np.array([side * np.cos(angle), np.sin(angle)])
    speed = random.uniform(1.7, 2.8) * (0.75 if meeting else 1.0)
    velocity, other_velocity = _level(speed * heading), np.zeros(3)
    if meeting:
        other_velocity = _level(-random.uniform(0.8, 1.8) * heading)
    approach = (velocity - other_velocity)[:2]
    along = approach / np.linalg.norm(approach)
    across = np.array([-along[1], along[0]])
    off_centre = random.uniform(-0.35, 0.35) * reach
    touching = across * off_centre - along * np.sqrt(reach**2 - off_centre**2)
    time = random.uniform(0.1, 0.24)
    meet = np.array([random.uniform(-0.1, 0.2) * side, random.uniform(-0.15, 0.35)])
    places = (meet + touching - velocity[:2] * time, meet - other_velocity[:2] * time)
    return places, (velocity, other_velocity)


def _level(velocity: np.ndarray) -> np.ndarray:
    return staging.to_tenths(velocity[0], velocity[1], 0.0)


def _on_the_floor(
    random: np.random.Generator,
    shape: Shape,
    size: tuple[float, ...],
    name: str,
    place: np.ndarray,
    velocity: np.ndarray,
    axes: np.ndarray,
) -> Body:
    slides = shape != "ball" and bool(velocity.any())
    return staging.body(
        random,
        shape,
        name,
        size,
        np.array([*place, staging.standing(shape, size)]) @ axes,
        quaternion=staging.turned(random.uniform(0, np.pi)),
        velocity=velocity,
        rolling=shape == "ball" and bool(velocity.any()),
        # Rubber and clay would stop a sliding body before it arrives.
        materials=("wood", "steel") if slides else COMMON,
    )
