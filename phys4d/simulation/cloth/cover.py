"""Cover: a cloth falls from rest onto a body at rest on the floor and drapes over it."""

import numpy as np

from phys4d.simulation.body import Shape
from phys4d.simulation.caption import article
from phys4d.simulation.cloth import fabric
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.mjcf import FIRM, add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.shapes import half_height

HANGS = 0.06  # metres that a quarter of the cloth must end below its highest point


def cover(rng: np.random.Generator) -> Scene:
    """Samples a scene: a level or slightly tilted cloth, 5 to 20 cm above a ball, a box or a cylinder."""
    view = sampling.view(rng, distance=(1.35, 1.55), height=(0.75, 1.1), target_height=0.27)
    room = sampling.room(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[rng.choice(3, p=[0.4, 0.3, 0.3])]
    size = sampling.size_for_radius(shape, rng.uniform(0.17, 0.21))
    at = rng.uniform(-0.1, 0.1) * axes[0] + rng.uniform(-0.05, 0.15) * axes[1]
    height = half_height(shape, size)
    below = sampling.body(
        rng, shape, names[1], size, at + np.array([0, 0, height]),
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi / 2)),
    )  # fmt: skip
    half = rng.uniform(0.34, 0.42, size=2)
    cloth = fabric.sample_cloth(rng, names[0], (half[0], half[1]))
    off = rng.uniform(-0.3, 0.3, size=2) * size[0]
    tilt = rng.uniform(0, 0.15)
    gap = rng.uniform(0.05, 0.2) + np.sin(tilt) * float(half.max())
    turn = rotation(poses.yaw_tilt(rng.uniform(0, np.pi / 2), tilt, rng.uniform(0, 2 * np.pi)))
    centre = at + off[0] * axes[0] + off[1] * axes[1] + np.array([0, 0, 2 * height + gap])
    mjcf = fabric.model(room)
    fabric.add_cloth(mjcf, cloth, cloth.flat @ turn.T + centre)
    add_body(mjcf.world, below, "body", **FIRM)
    return fabric.scene(
        rng, "cover", view, room, mjcf, (fabric.scene_object(cloth), object_from_body(below, "body")),
        f"{article(cloth.name)} falls from rest onto {article(below.name)} at rest", _drapes,
    )  # fmt: skip


def _drapes(rollout: Rollout) -> str | None:
    """Checks that the cloth stays on the body and hangs down around it."""
    heights = rollout.flexes["cloth"][-1, :, 2]
    top = rollout.geoms["body"].position[-1, 2]
    if heights.max() < top:
        return "the cloth slides off"
    return None if heights.max() - np.quantile(heights, 0.25) > HANGS else "the cloth does not hang"
