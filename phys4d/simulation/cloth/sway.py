"""Sway: a cloth held on a bar by its upper edge or two corners is released from a tilted position."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.cloth import fabric, rack
from phys4d.simulation.mujoco_scenes.mjcf import disable_contacts
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

SWUNG = 0.25  # metres that the cloth's centre must move


def sway(rng: np.random.Generator) -> Scene:
    """Samples a scene: the cloth starts flat, 45 to 70 degrees off the vertical, tilted towards the camera or away."""
    view = sampling.view(rng, distance=(1.3, 1.5), height=(0.6, 0.9), target_height=0.4)
    room = sampling.room(rng)
    (name,) = sampling.colours(rng, 1)
    axes = view.level_axes()
    cloth = fabric.sample_cloth(rng, name, (rng.uniform(0.26, 0.31), rng.uniform(0.26, 0.34)))
    by_edge = bool(rng.uniform() < 0.5)
    across = poses.heading(axes, rng.choice([-1, 1]) * rng.uniform(0.3, 1.0))
    aside = np.cross((0.0, 0.0, 1.0), across) * rng.choice([-1, 1])
    where = "away from the camera" if aside @ axes[1] > 0 else "toward the camera"
    degrees = int(rng.integers(46, 73))
    angle = float(np.deg2rad(degrees))
    height = 2 * cloth.half[0] + rng.uniform(0.12, 0.2)
    middle = axes[0] * rng.uniform(-0.05, 0.05) + axes[1] * rng.uniform(0.0, 0.2) + np.array([0, 0, height])
    down = np.sin(angle) * aside - np.array([0, 0, np.cos(angle)])
    # The cloth's first axis points down from the bar, its second axis along the bar.
    points = middle + (cloth.flat[:, :1] + cloth.half[0]) * down + cloth.flat[:, 1:2] * across
    reach = (cloth.half[1] + 0.05) * across
    props = rack.rack(middle - reach, middle + reach, muted(rng, 0.3, 0.6))
    pinned = np.arange(cloth.count) if by_edge else np.array([0, cloth.count - 1])
    mjcf = fabric.model(room, props)
    disable_contacts(mjcf, "prop")
    fabric.add_cloth(mjcf, cloth, points, pinned=pinned)
    held = "along its upper edge" if by_edge else "by its two upper corners"
    return fabric.scene(
        rng, "sway", view, room, mjcf, (fabric.scene_object(cloth),),
        f"{article(cloth.name)} held {held} by a bar, pulled {where} by {degrees} degrees, swings from rest", _swings,
        props=props, physics={"start_angle": angle}, endless=True,
    )  # fmt: skip


def _swings(rollout: Rollout) -> str | None:
    middle = rollout.flexes["cloth"].mean(axis=1)
    return None if np.linalg.norm(middle - middle[0], axis=1).max() > SWUNG else "little swing"
