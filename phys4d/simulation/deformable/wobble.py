"""Wobble: a soft body falls or is thrown onto the floor, is squashed and oscillates."""

import numpy as np

from phys4d.simulation.caption import article, flight
from phys4d.simulation.deformable import deformation, soft_body
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.thrown import thrown_flex
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

SQUASHED = 0.08  # least strain


def wobble(rng: np.random.Generator) -> Scene:
    """Samples a scene: a soft ball, box or cylinder, upright or tilted, its lowest point 15 to 40 cm above the floor;
    55 % are thrown.
    """
    view = sampling.view(rng, distance=(1.2, 1.4), height=(0.5, 0.9), target_height=0.3)
    room = sampling.room(rng)
    (name,) = sampling.colours(rng, 1)
    axes = view.level_axes()
    kinds: list[soft_body.SoftShape] = ["box", "ball", "cylinder"]
    kind = kinds[rng.choice(3, p=[0.5, 0.25, 0.25])]
    size = sampling.size_for_radius(kind, rng.uniform(0.19, 0.23))
    body = soft_body.sample_soft_body(rng, name, kind, size)
    tilt = 0.0 if kind == "cylinder" else rng.choice([0.0, 1.0]) * rng.uniform(0.1, 0.5)
    turn = poses.yaw_tilt(rng.uniform(0, np.pi / 2), tilt, rng.uniform(0, 2 * np.pi))
    velocity = poses.throw(rng, share=0.55, level=(0.3, 1.0), up=(-0.6, 0.8))
    drop = round(rng.uniform(0.15, 0.4), 2)
    at = rng.uniform(-0.12, 0.12) * axes[0] + rng.uniform(-0.05, 0.15) * axes[1]
    at = at - 0.25 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    height = drop - float((body.rest @ rotation(turn).T)[:, 2].min())
    far = "" if velocity.any() else f" {drop:.2f} m"
    mjcf = soft_body.model(room)
    soft_body.add_soft(mjcf, body, "soft", at + np.array([0, 0, height]), turn)
    return soft_body.scene(
        rng, "wobble", view, room, mjcf, (soft_body.scene_object(body, "soft"),),
        f"{article(body.name)} {flight(velocity)} falls{far} and wobbles", _squashed,
        start=thrown_flex("soft", velocity @ axes), physics={"linear_velocity": (velocity @ axes).tolist()},
    )  # fmt: skip


def _squashed(rollout: Rollout) -> str | None:
    """Checks that it hits the floor early enough and is squashed."""
    if deformation.first_touch(rollout) > 0.6 * rollout.frames:
        return "no contact in time"
    return None if deformation.strain(rollout, "soft").max() > SQUASHED else "little squashed"
