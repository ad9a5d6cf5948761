"""A ball hits a held cloth: it falls into a hammock, or flies into a hanging cloth."""

import numpy as np

from phys4d.simulation.articulated.linkage import set_free_velocities
from phys4d.simulation.caption import article, motion
from phys4d.simulation.cloth import fabric, rack
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.mjcf import FIRM, add_body, disable_contacts
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

LIGHT = ("wood", "plastic", "rubber")
PUSHED = 0.05  # metres that some point of the cloth must move


def hammock(rng: np.random.Generator) -> Scene:
    """Samples a scene: a level cloth held at its corners by four poles; a ball 10 to 30 cm above it, thrown in 55 %.
    """
    view = sampling.view(rng, distance=(1.35, 1.55), height=(0.85, 1.15), target_height=0.38)
    room = sampling.room(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    half = rng.uniform(0.27, 0.34, size=2)
    cloth = fabric.sample_cloth(rng, names[1], (half[0], half[1]), count=21, fabrics=("foam rubber",))
    middle = rng.uniform(-0.06, 0.06) * axes[0] + rng.uniform(0.05, 0.2) * axes[1]
    middle = middle + np.array([0, 0, rng.uniform(0.38, 0.48)])
    turn = rotation(poses.yaw_tilt(rng.uniform(0, np.pi / 2)))
    points = cloth.flat @ turn.T + middle
    last = cloth.count - 1
    corners = np.array([0, last, last * cloth.count, last * cloth.count + last])
    grey = muted(rng, 0.3, 0.6)
    props = tuple(rack.pole(points[corner], float(middle[2]) + 0.03, grey) for corner in corners)
    radius = rng.uniform(0.08, 0.11)
    velocity = poses.throw(rng, share=0.55, level=(0.2, 0.6), up=(-0.8, 0.4))
    off = poses.heading(axes, rng.uniform(0, 2 * np.pi)) * rng.uniform(0.0, 0.08)
    off = off - 0.2 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    place = middle + off + np.array([0, 0, radius + rng.uniform(0.1, 0.3)])
    ball = sampling.body(rng, "ball", names[0], (radius,), place, velocity=velocity, materials=("wood", "plastic"))
    mjcf = fabric.model(room, props)
    disable_contacts(mjcf, "prop")
    fabric.add_cloth(mjcf, cloth, points, pinned=corners, selfcollide=False)
    add_body(mjcf.world, ball, "body", **FIRM)

    def rejection_reason(rollout: Rollout) -> str | None:
        height = rollout.geoms["body"].position[:, 2]
        if height.argmin() > 0.8 * rollout.frames:
            return "no contact in time"
        return None if height.min() < middle[2] + radius - PUSHED else "the cloth hardly gives"

    return fabric.scene(
        rng, "hammock", view, room, mjcf, (object_from_body(ball, "body"), fabric.scene_object(cloth)),
        f"{article(ball.name)} {motion(ball, flying=True)} falls into {article(cloth.name)} held level at its corners "
        "by four poles",
        rejection_reason, props=props, start=set_free_velocities(view, {"body": ball}),
    )  # fmt: skip


def billow(rng: np.random.Generator) -> Scene:
    """Samples a scene: a ball flies into a cloth that hangs from a bar, from the side."""
    view = sampling.view(rng, distance=(1.5, 1.7), height=(0.65, 0.95), target_height=0.42)
    room = sampling.room(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    cloth = fabric.sample_cloth(rng, names[1], (rng.uniform(0.28, 0.33), rng.uniform(0.28, 0.34)))
    side = float(rng.choice([-1, 1]))
    across = poses.heading(axes, rng.choice([-1, 1]) * rng.uniform(0.7, 1.1))
    height = 2 * cloth.half[0] + rng.uniform(0.08, 0.16)
    middle = -side * rng.uniform(0.0, 0.1) * axes[0] + rng.uniform(0.05, 0.2) * axes[1]
    middle = middle + np.array([0, 0, height])
    points = middle - (cloth.flat[:, :1] + cloth.half[0]) * np.array([0, 0, 1.0]) + cloth.flat[:, 1:2] * across
    reach = (cloth.half[1] + 0.05) * across
    props = rack.rack(middle - reach, middle + reach, muted(rng, 0.3, 0.6))
    radius = rng.uniform(0.08, 0.11)
    velocity = poses.to_tenths(side * rng.uniform(1.0, 1.6), 0, rng.uniform(0.5, 1.3))
    away = radius + rng.uniform(0.12, 0.2)
    place = middle - side * away * axes[0] - np.array([0, 0, rng.uniform(0.9, 1.2) * cloth.half[0]])
    ball = sampling.body(rng, "ball", names[0], (radius,), place, velocity=velocity, materials=LIGHT)
    mjcf = fabric.model(room, props)
    disable_contacts(mjcf, "prop")
    fabric.add_cloth(mjcf, cloth, points, pinned=np.arange(cloth.count))
    add_body(mjcf.world, ball, "body", **FIRM)

    def rejection_reason(rollout: Rollout) -> str | None:
        place = rollout.flexes["cloth"]
        moved = np.linalg.norm(place - place[0], axis=2).max(axis=1)
        pushed = np.flatnonzero(moved > PUSHED)
        return None if len(pushed) and pushed[0] < 0.6 * rollout.frames else "no contact in time"

    return fabric.scene(
        rng, "billow", view, room, mjcf, (object_from_body(ball, "body"), fabric.scene_object(cloth)),
        f"{article(ball.name)} {motion(ball, flying=True)} hits {article(cloth.name)} that hangs at rest from a bar",
        rejection_reason, props=props, start=set_free_velocities(view, {"body": ball}),
    )  # fmt: skip
