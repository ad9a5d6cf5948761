"""Dominoes: a row of upright slabs falls over, pushed by a rolling ball or started by a leaning first slab."""

import numpy as np

from phys4d.simulation.body import Body
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scenery import poses, sampling


def dominoes(rng: np.random.Generator) -> RigidScene:
    """Samples a scene with four to six slabs of one material: half start with a ball, half with a leaning slab."""
    view = sampling.view(rng, distance=(1.15, 1.35), height=(0.5, 0.95), target_height=0.2)
    room, light = sampling.room(rng), sampling.light(rng)
    axes = view.level_axes()
    pushed = bool(rng.uniform() < 0.5)
    direction = poses.heading(axes, rng.uniform(-0.45, 0.45)) * rng.choice([-1, 1])
    # A row that starts by leaning falls more slowly, so it is lower and shorter.
    height = rng.uniform(0.12, 0.15) if pushed else rng.uniform(0.105, 0.13)
    half = np.array([height * rng.uniform(0.13, 0.17), rng.uniform(0.08, 0.11), height])
    gap = height * (rng.uniform(0.75, 1.0) if pushed else rng.uniform(1.15, 1.3))
    count = int(rng.integers(4, 7 if pushed else 6))
    names = sampling.colours(rng, count + 1)
    middle = axes[1] * rng.uniform(-0.05, 0.25) + direction * (0.06 if pushed else -0.05)
    material = str(rng.choice(["wood", "plastic", "marble", "steel"]))
    places = [middle + direction * gap * (number - (count - 1) / 2) for number in range(count)]
    touching = np.arcsin((gap - 2 * half[0]) / (2 * half[2]))
    lean = 0.0 if pushed else rng.uniform(0.85, 0.97) * touching
    row = tuple(
        _slab(rng, name, half, place, direction, lean if number == 0 else 0.0, material)
        for number, (name, place) in enumerate(zip(names[1:], places, strict=True))
    )
    if pushed:
        ball = _ball(
            rng, names[0], places[0] - direction * half[0], direction, axes, material in ("marble", "steel")
        )
        row = (ball, *row)
        return RigidScene(family="dominoes", event="knocks over", bodies=row, room=room, view=view, light=light)
    return RigidScene(family="dominoes", event="falls over", bodies=row, room=room, view=view, light=light)


def _slab(
    rng: np.random.Generator,
    name: str,
    half: np.ndarray,
    place: np.ndarray,
    direction: np.ndarray,
    lean: float,
    material: str,
) -> Body:
    """A slab on the floor, upright or leaning by `lean` radians on its front lower edge."""
    edge = place + direction * half[0]
    up, ahead = np.array([0.0, 0.0, 1.0]), direction
    centre = edge + (np.cos(lean) * up + np.sin(lean) * ahead) * half[2]
    centre = centre - (np.cos(lean) * ahead - np.sin(lean) * up) * half[0]
    turn = poses.heading_pitch(direction, lean)
    return sampling.body(rng, "box", name, tuple(half), centre, quaternion=turn, materials=(material,))


def _ball(
    rng: np.random.Generator, name: str, face: np.ndarray, direction: np.ndarray, axes: np.ndarray, heavy: bool
) -> Body:
    """A ball that reaches the first slab's face after 0.05 to 0.12 s."""
    radius = rng.uniform(0.09, 0.12)
    velocity = poses.to_tenths(*(axes @ direction * rng.uniform(1.2, 1.9)))
    speed = np.hypot(velocity[0], velocity[1])
    position = face - direction * (radius + speed * rng.uniform(0.05, 0.12)) + np.array([0, 0, radius])
    materials = ("steel", "marble") if heavy else ("rubber", "wood", "plastic")
    return sampling.body(rng, "ball", name, (radius,), position, velocity=velocity, rolling=True, materials=materials)
