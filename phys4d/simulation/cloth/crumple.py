"""Crumple: an upright folded cloth falls, or is thrown, onto the floor and crumples."""

import numpy as np

from phys4d.simulation.caption import article, flight
from phys4d.simulation.cloth import fabric
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.thrown import thrown_flex
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

LEFT = 0.6  # largest final height of the cloth over its initial height


def crumple(rng: np.random.Generator) -> Scene:
    """Samples a scene: an upright wavy cloth that leans by up to 20 degrees, its lower edge 3 to 10 cm above the floor;
    half of them are thrown.
    """
    view = sampling.view(rng, distance=(1.35, 1.55), height=(0.65, 1.0), target_height=0.32)
    room = sampling.room(rng)
    (name,) = sampling.colours(rng, 1)
    axes = view.level_axes()
    cloth = fabric.sample_cloth(rng, name, (rng.uniform(0.28, 0.34), rng.uniform(0.3, 0.38)), count=21)
    across = poses.heading(axes, rng.uniform(-0.6, 0.6))
    facing = np.cross(across, (0.0, 0.0, 1.0))
    along, depth = _folds(cloth.flat[:, 1], waves=rng.uniform(1.0, 2.2), steepness=rng.uniform(0.6, 1.1))
    degrees = int(rng.choice([-1, 1]) * rng.integers(1, 21))
    lean = float(np.deg2rad(degrees))
    velocity = poses.throw(rng, share=0.5, level=(0.2, 0.8), up=(-0.4, 0.6))
    upwards = np.cos(lean) * np.array([0, 0, 1.0]) + np.sin(lean) * facing
    # Folds are perpendicular to the leaning cloth, so that it is not stretched.
    out = np.cos(lean) * facing - np.sin(lean) * np.array([0, 0, 1.0])
    foot = rng.uniform(-0.1, 0.1) * axes[0] + rng.uniform(0.0, 0.2) * axes[1]
    points = along[:, None] * across + depth[:, None] * out + (cloth.flat[:, :1] + cloth.half[0]) * upwards
    foot = foot - 0.2 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    points = foot + points + np.array([0, 0, rng.uniform(0.03, 0.1) - points[:, 2].min()])
    mjcf = fabric.model(room)
    fabric.add_cloth(mjcf, cloth, points)
    leaning = f"leaning {'toward' if degrees > 0 else 'away from'} the camera by {abs(degrees)} degrees"
    return fabric.scene(
        rng, "crumple", view, room, mjcf, (fabric.scene_object(cloth),),
        f"{article(cloth.name)} upright in folds, {leaning}, {flight(velocity)} falls on the floor and crumples",
        _crumples, start=thrown_flex("cloth", velocity @ axes),
        physics={"linear_velocity": (velocity @ axes).tolist()},
    )  # fmt: skip


def _folds(length: np.ndarray, waves: float, steepness: float) -> tuple[np.ndarray, np.ndarray]:
    """A wavy line parametrised by arc length: positions along [N] and perpendicular to [N] its mean direction, metres.

    length: [N], arc length, metres.
    waves: number of waves.
    steepness: radians, amplitude of the line's direction.
    """
    span = length.max() - length.min()
    fine = np.linspace(length.min(), length.max(), 2001)
    # The direction oscillates along the line, so that its arc length is exact for any steepness.
    angle = steepness * np.cos(2 * np.pi * waves * (fine - fine[0]) / span)
    step = fine[1] - fine[0]
    along = np.concatenate([[0], np.cumsum(np.cos((angle[1:] + angle[:-1]) / 2) * step)])
    off = np.concatenate([[0], np.cumsum(np.sin((angle[1:] + angle[:-1]) / 2) * step)])
    along, off = along - along.mean(), off - off.mean()
    return np.interp(length, fine, along), np.interp(length, fine, off)


def _crumples(rollout: Rollout) -> str | None:
    height = rollout.flexes["cloth"][:, :, 2].max(axis=1)
    return None if height[-1] < LEFT * height[0] else "the cloth stands"
