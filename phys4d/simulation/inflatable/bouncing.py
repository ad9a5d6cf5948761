"""An inflated ball falls, or is thrown, and bounces; a ball falls onto an air cushion."""

import numpy as np

from phys4d.simulation.articulated.linkage import set_free_velocities
from phys4d.simulation.caption import article, flight, motion
from phys4d.simulation.inflatable import shell as shells
from phys4d.simulation.inflatable.gas import Gas
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.mjcf import FIRM, add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.mujoco_scenes.thrown import thrown_flex
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling


def air_ball(rng: np.random.Generator) -> Scene:
    """Samples a scene: a balloon 25 to 45 cm above the floor; 65 % are thrown."""
    view = sampling.view(rng, distance=(1.3, 1.5), height=(0.5, 0.9), target_height=0.35)
    room = sampling.room(rng)
    (name,) = sampling.colours(rng, 1)
    axes = view.level_axes()
    radius = rng.uniform(0.17, 0.22)
    ball = shells.sample_shell(
        rng, name, "ball", (radius,) * 3, gauge=rng.uniform(150, 500), stretching=(500, 800)
    )  # fmt: skip
    velocity = poses.throw(rng, share=0.65, level=(0.3, 1.2), up=(-0.8, 0.8))
    at = rng.uniform(-0.12, 0.12) * axes[0] + rng.uniform(-0.05, 0.15) * axes[1]
    at = at - 0.3 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    drop = round(rng.uniform(0.25, 0.45), 2)
    far = "" if velocity.any() else f" {drop:.2f} m"
    mjcf = shells.model(room)
    shells.add_shell(mjcf, ball, "ball", at + np.array([0, 0, radius * (1 + ball.swelling) + drop]))
    return shells.scene(
        rng, "air_ball", view, room, mjcf, {"ball": (ball, Gas("ball", ball.amount))},
        (shells.scene_object(ball, "ball"),), f"{article(ball.name)} {flight(velocity)} falls{far} and bounces",
        _bounces, start=thrown_flex("ball", velocity @ axes),
    )  # fmt: skip


def _bounces(rollout: Rollout) -> str | None:
    height = rollout.flexes["ball"][:, :, 2].mean(axis=1)
    rising = np.flatnonzero(np.diff(height) > 0)
    if not len(rising) or rising[0] > 0.6 * rollout.frames:
        return "no contact in time"
    lowest = int(rising[0])
    return None if height[lowest:].max() > height[lowest] + 0.05 else "little bounce"


def cushion(rng: np.random.Generator) -> Scene:
    """Samples a scene: a ball falls onto an air cushion at rest on the floor; 40 % are thrown."""
    view = sampling.view(rng, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.28)
    room = sampling.room(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    radii = (rng.uniform(0.27, 0.32), rng.uniform(0.27, 0.32), rng.uniform(0.1, 0.12))
    below = shells.sample_shell(
        rng, names[1], "cushion", radii, gauge=rng.uniform(200, 400), stretching=(800, 1200),
        density=(0.8, 1.2),
    )  # fmt: skip
    at = rng.uniform(-0.1, 0.1) * axes[0] + rng.uniform(0.0, 0.15) * axes[1]
    radius = rng.uniform(0.09, 0.12)
    velocity = poses.throw(rng, share=0.4, level=(0.1, 0.4), up=(-1.0, 0.2))
    off = poses.heading(axes, rng.uniform(0, 2 * np.pi)) * rng.uniform(0.0, 0.04)
    off = off - 0.2 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    height = 2 * radii[2] + 1.1 * radius + rng.uniform(0.15, 0.32)
    weight = sampling.body(
        rng, "ball", names[0], (radius,), at + off + np.array([0, 0, height]),
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi), rng.uniform(0, np.pi), rng.uniform(0, 6)),
        materials=("wood", "rubber", "plastic", "clay", "marble"), velocity=velocity,
    )  # fmt: skip
    turn = rotation(poses.yaw_tilt(rng.uniform(0, np.pi / 2)))
    mjcf = shells.model(room)
    lying = radii[2] * (1 + below.swelling) + shells.RADIUS
    shells.add_shell(mjcf, below, "cushion", at + np.array([0, 0, lying]), turn)
    add_body(mjcf.world, weight, "body", **FIRM)
    return shells.scene(
        rng, "cushion", view, room, mjcf, {"cushion": (below, Gas("cushion", below.amount))},
        (object_from_body(weight, "body"), shells.scene_object(below, "cushion")),
        f"{article(weight.name)} {motion(weight, flying=True)} falls onto {article(below.name)} at rest", _caught,
        start=set_free_velocities(view, {"body": weight}),
    )  # fmt: skip


def _caught(rollout: Rollout) -> str | None:
    """Checks that the ball lands on the cushion and presses it in."""
    top = rollout.flexes["cushion"][:, :, 2].max(axis=1)
    fall = rollout.geoms["body"].position[:, 2]
    pressed = np.flatnonzero(rollout.flexes["cushion"][:, :, 2].mean(axis=1) < 0.95 * top[0] / 2)
    if not len(pressed) or pressed[0] > 0.7 * rollout.frames:
        return "no contact in time"
    return None if fall.min() < fall[0] - 0.1 else "little fall"
