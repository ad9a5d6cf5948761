"""Collision: a body rolls or slides into another body that rests or approaches."""

import numpy as np

from phys4d.simulation.body import Body, Shape
from phys4d.simulation.rigid.bodies import Event
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import COMMON
from phys4d.simulation.shapes import half_height


def collision(rng: np.random.Generator) -> RigidScene:
    """Samples a scene: 70 % hit a resting body, 30 % meet a moving one; contact after 0.06 to 0.15 s."""
    view = sampling.view(rng)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    meeting = bool(rng.uniform() < 0.3)
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    striker = shapes[0 if meeting else rng.choice(3, p=[0.75, 0.15, 0.1])]
    target = shapes[0 if meeting else rng.choice(3, p=[0.55, 0.25, 0.2])]
    sizes = [sampling.size_for_radius(shape, rng.uniform(0.16, 0.22)) for shape in (striker, target)]
    places, velocities = _courses(rng, meeting, reach=sizes[0][0] + sizes[1][0])
    bodies = tuple(
        _on_the_floor(rng, shape, size, name, place, velocity, view.level_axes())
        for shape, size, name, place, velocity in zip((striker, target), sizes, names, places, velocities, strict=True)
    )
    event: Event = "meets" if meeting else "hits"
    return RigidScene(family="collision", event=event, bodies=bodies, room=room, view=view, light=light)


def _courses(
    rng: np.random.Generator, meeting: bool, *, reach: float
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Positions [2] (right, away) in metres and velocities [3] in m/s of two bodies that collide.

    Each body starts as far from the point of contact as it moves until the contact.

    meeting: the second body moves, too.
    reach: metres between the centres at contact.
    """
    side, angle = rng.choice([-1, 1]), rng.uniform(-0.6, 0.6)
    heading = np.array([side * np.cos(angle), np.sin(angle)])
    speed = rng.uniform(1.7, 2.8) * (0.75 if meeting else 1.0)
    velocity, other_velocity = _level(speed * heading), np.zeros(3)
    if meeting:
        other_velocity = _level(-rng.uniform(0.8, 1.8) * heading)
    approach = (velocity - other_velocity)[:2]
    along = approach / np.linalg.norm(approach)
    across = np.array([-along[1], along[0]])
    off_centre = rng.uniform(-0.35, 0.35) * reach
    touching = across * off_centre - along * np.sqrt(reach**2 - off_centre**2)
    time = rng.uniform(0.06, 0.15)
    meet = np.array([rng.uniform(0.02, 0.25) * side, rng.uniform(-0.15, 0.35)])
    places = (meet + touching - velocity[:2] * time, meet - other_velocity[:2] * time)
    return places, (velocity, other_velocity)


def _level(velocity: np.ndarray) -> np.ndarray:
    return poses.to_tenths(velocity[0], velocity[1], 0.0)


def _on_the_floor(
    rng: np.random.Generator,
    shape: Shape,
    size: tuple[float, ...],
    name: str,
    place: np.ndarray,
    velocity: np.ndarray,
    axes: np.ndarray,
) -> Body:
    slides = shape != "ball" and bool(velocity.any())
    return sampling.body(
        rng,
        shape,
        name,
        size,
        np.array([*place, half_height(shape, size)]) @ axes,
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi)),
        velocity=velocity,
        rolling=shape == "ball" and bool(velocity.any()),
        # Rubber and clay would stop a sliding body before it arrives.
        materials=("wood", "steel") if slides else COMMON,
    )
