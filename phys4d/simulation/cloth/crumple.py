"""Crumple: a cloth that hangs upright in folds falls from rest on the floor and crumples."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.cloth import fabric
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.play import Play

LEFT = 0.6  # share of the cloth's height that is left in the end


def crumple(random: np.random.Generator) -> Scene:
    """Draws a scene: the cloth is upright and wavy, or leans, its lower edge 3 to 10 cm above the floor."""
    view = staging.view(random, distance=(1.35, 1.55), height=(0.65, 1.0), target_height=0.32)
    room = staging.room(random)
    (name,) = staging.colours(random, 1)
    axes = view.level_axes()
    cloth = fabric.cloth(random, name, (random.uniform(0.28, 0.34), random.uniform(0.3, 0.38)), count=21)
    across = staging.heading(axes, random.uniform(-0.6, 0.6))
    facing = np.cross(across, (0.0, 0.0, 1.0))
    along, depth = _folds(cloth.flat[:, 1], waves=random.uniform(1.0, 2.2), steepness=random.uniform(0.6, 1.1))
    lean = random.uniform(-0.35, 0.35)
    upwards = np.cos(lean) * np.array([0, 0, 1.0]) + np.sin(lean) * facing
    # Folds are square to the cloth as it leans, so that nothing is stretched.
    out = np.cos(lean) * facing - np.sin(lean) * np.array([0, 0, 1.0])
    foot = random.uniform(-0.1, 0.1) * axes[0] + random.uniform(0.0, 0.2) * axes[1]
    points = along[:, None] * across + depth[:, None] * out + (cloth.flat[:, :1] + cloth.half[0]) * upwards
    points = foot + points + np.array([0, 0, random.uniform(0.03, 0.1) - points[:, 2].min()])
    mjcf = fabric.model(room)
    fabric.add_cloth(mjcf, cloth, points)
    return fabric.scene(
        random, "crumple", view, room, mjcf, (fabric.thing(cloth),),
        f"{article(cloth.name)} that stands in folds falls from rest on the floor and crumples", _crumples,
    )  # fmt: skip


def _folds(length: np.ndarray, waves: float, steepness: float) -> tuple[np.ndarray, np.ndarray]:
    """A wavy line at lengths [N] along it, in metres: places along its mean direction [N] and off it [N]."""
    span = length.max() - length.min()
    fine = np.linspace(length.min(), length.max(), 2001)
    # Its direction swings to and fro: however steep, its length is right.
    angle = steepness * np.cos(2 * np.pi * waves * (fine - fine[0]) / span)
    step = fine[1] - fine[0]
    along = np.concatenate([[0], np.cumsum(np.cos((angle[1:] + angle[:-1]) / 2) * step)])
    off = np.concatenate([[0], np.cumsum(np.sin((angle[1:] + angle[:-1]) / 2) * step)])
    along, off = along - along.mean(), off - off.mean()
    return np.interp(length, fine, along), np.interp(length, fine, off)


def _crumples(play: Play) -> str | None:
    height = play.flexes["cloth"][:, :, 2].max(axis=1)
    return None if height[-1] < LEFT * height[0] else "the cloth stands"
