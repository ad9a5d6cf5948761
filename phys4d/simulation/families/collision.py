"""Collision: a body rolls or slides into another one that rests or comes towards it."""

import numpy as np

from phys4d.simulation.families import staging
from phys4d.simulation.scene import Scene, Shape


def collision(random: np.random.Generator) -> Scene:
    """Draws a scene: 70 % hit a resting body, 30 % meet a moving one; contact after 0.1 to 0.24 s."""
    view = staging.view(random)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    meeting = random.uniform() < 0.3
    sign = random.choice([-1, 1])
    striker: Shape = random.choice(["ball", "box", "cylinder"], p=[0.75, 0.15, 0.1])
    target: Shape = random.choice(["ball", "box", "cylinder"], p=[0.55, 0.25, 0.2])
    if meeting:
        striker = target = "ball"
    sizes = [staging.size_of(shape, random.uniform(0.16, 0.22)) for shape in (striker, target)]
    angle = random.uniform(-0.6, 0.6)
    speed = random.uniform(1.7, 2.8) * (0.75 if meeting else 1.0)
    heading = sign * np.array([np.cos(angle), sign * np.sin(angle)])
    velocity = staging.to_tenths([*(speed * heading), 0.0])
    other_velocity = np.zeros(3)
    if meeting:
        other_velocity = staging.to_tenths([*(-heading * random.uniform(0.8, 1.8)), 0.0])
    approach = (velocity - other_velocity)[:2]
    direction = approach / np.linalg.norm(approach)
    across = np.array([-direction[1], direction[0]])
    reach = sizes[0][0] + sizes[1][0]
    offset = random.uniform(-0.35, 0.35) * reach
    gap_at_contact = np.sqrt(reach**2 - offset**2)
    contact = random.uniform(0.1, 0.24)
    meet = np.array([random.uniform(-0.1, 0.2) * sign, random.uniform(-0.15, 0.35)])
    second = meet - other_velocity[:2] * contact
    first = meet - direction * gap_at_contact + across * offset - velocity[:2] * contact
    bodies = []
    for shape, size, name, place, motion in zip(
        (striker, target), sizes, names, (first, second), (velocity, other_velocity), strict=True
    ):
        position = np.array([*place, staging.standing(shape, size)]) @ axes
        quaternion = staging.turned(random.uniform(0, np.pi))
        rolling = shape == "ball" and bool(motion.any())
        # Rubber would stop a sliding box before it arrives.
        material = str(random.choice(["wood", "steel"])) if motion.any() and not rolling else None
        bodies.append(
            staging.body(
                random, shape, name, size, position,
                quaternion=quaternion, velocity=motion, rolling=rolling, material=material,
            )
        )
    return Scene("collision", "meets" if meeting else "hits", tuple(bodies), room, view, light)
