"""Impact: a soft body falls onto a rigid one, a rigid body falls onto a soft one, or a rigid body dents clay."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.articulated.linkage import set_free_velocities
from phys4d.simulation.body import Prop, Shape
from phys4d.simulation.caption import article, flight, motion
from phys4d.simulation.deformable import deformation, soft_body
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.mujoco_scenes.mjcf import FIRM, add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.mujoco_scenes.thrown import thrown_flex
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

DEFORMED = 0.08  # least strain of a squashed body
DENTED = 0.02  # metres, least depth of a dent


def squash(rng: np.random.Generator) -> Scene:
    """Samples a scene: a soft ball, box or cylinder falls onto a fixed ridge, post or log; half of them are thrown."""
    view = sampling.view(rng, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.33)
    room = sampling.room(rng)
    (name,) = sampling.colours(rng, 1)
    axes = view.level_axes()
    kinds: list[soft_body.SoftShape] = ["ball", "box", "cylinder"]
    kind = kinds[rng.choice(3, p=[0.35, 0.35, 0.3])]
    size = sampling.size_for_radius(kind, rng.uniform(0.17, 0.2))
    body = soft_body.sample_soft_body(rng, name, kind, size)
    at = rng.uniform(-0.12, 0.12) * axes[0] + rng.uniform(0.0, 0.15) * axes[1]
    below, top = _obstacle(rng, at)
    off = poses.heading(axes, rng.uniform(0, 2 * np.pi)) * rng.uniform(0.0, 0.05)
    velocity = poses.throw(rng, share=0.5, level=(0.1, 0.4), up=(-1.2, 0.0))
    # As far to the side as it moves until it arrives.
    off = off - 0.15 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    height = top + max(size) * 1.25 + rng.uniform(0.06, 0.18) - 0.08 * velocity[2]
    mjcf = soft_body.model(room, (below,))
    turn = poses.yaw_tilt(rng.uniform(0, np.pi / 2))
    soft_body.add_soft(mjcf, body, "soft", at + off + np.array([0, 0, height]), turn)
    return soft_body.scene(
        rng, "squash", view, room, mjcf, (soft_body.scene_object(body, "soft"),),
        f"{article(body.name)} {flight(velocity)} falls onto {article(below.name)}", _squashed, props=(below,),
        start=thrown_flex("soft", velocity @ axes), physics={"linear_velocity": (velocity @ axes).tolist()},
    )  # fmt: skip


def _obstacle(rng: np.random.Generator, at: np.ndarray) -> tuple[Prop, float]:
    """A fixed ridge, post or log on the floor, and its height in metres."""
    grey = muted(rng, 0.45, 0.75)
    name = str(rng.choice(["ridge", "post", "log"], p=[0.3, 0.4, 0.3]))
    x, y = float(at[0]), float(at[1])
    yaw = rng.uniform(-0.5, 0.5) + rng.choice([0.0, np.pi / 2])
    if name == "post":
        half = rng.uniform(0.08, 0.14)
        size = (rng.uniform(0.08, 0.11), half)
        return Prop(name, "cylinder", grey, Texture.CONCRETE, size, 0.6, (x, y, half)), 2 * half
    if name == "log":
        radius = rng.uniform(0.06, 0.09)
        w, i, j, k = (float(q) for q in poses.heading_pitch(np.array([np.sin(yaw), np.cos(yaw), 0.0]), np.pi / 2))
        size = (radius, 0.35)
        return Prop(name, "cylinder", grey, Texture.GRAIN, size, 0.6, (x, y, radius), (w, i, j, k)), 2 * radius
    # A square bar rotated by 45 degrees, half of it below the floor.
    half = rng.uniform(0.1, 0.15)
    w, i, j, k = (float(q) for q in poses.heading_pitch(np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.pi / 4))
    return Prop(name, "box", grey, Texture.CONCRETE, (half, 0.35, half), 0.6, (x, y, 0.0), (w, i, j, k)), half * 2**0.5


def press(rng: np.random.Generator) -> Scene:
    """Samples a scene: a heavy ball, box or cylinder falls onto a soft block at rest on the floor."""
    return _struck(rng, "press", ("jelly", "soft rubber"), ("steel", "marble", "clay"), _pressed)


def dent(rng: np.random.Generator) -> Scene:
    """Samples a scene: a steel or marble body falls onto a block of soft clay and leaves a permanent dent."""
    return _struck(rng, "dent", ("soft clay",), ("steel", "marble"), _dented)


def _struck(
    rng: np.random.Generator,
    family: str,
    materials: tuple[str, ...],
    heavy: tuple[str, ...],
    rejection_reason: Callable[[Rollout], str | None],
) -> Scene:
    """A rigid body of one of the `heavy` materials falls onto a soft block of one of `materials`; 40 % are thrown."""
    view = sampling.view(rng, distance=(1.15, 1.35), height=(0.65, 0.95), target_height=0.25)
    room = sampling.room(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    half = (rng.uniform(0.18, 0.23), rng.uniform(0.18, 0.23), rng.uniform(0.08, 0.12))
    block = soft_body.sample_soft_body(rng, names[1], "box", half, points=(8, 8, 5), materials=materials)
    at = rng.uniform(-0.1, 0.1) * axes[0] + rng.uniform(0.0, 0.15) * axes[1]
    yaw = rng.uniform(0, np.pi / 2)
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    kind = shapes[rng.choice(3, p=[0.5, 0.25, 0.25])]
    size = sampling.size_for_radius(kind, rng.uniform(0.08, 0.11))
    off = poses.heading(axes, rng.uniform(0, 2 * np.pi)) * rng.uniform(0.0, 0.06)
    velocity = poses.throw(rng, share=0.4, level=(0.1, 0.4), up=(-1.0, 0.2))
    off = off - 0.2 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    height = 2 * half[2] + 1.3 * max(size) + rng.uniform(0.18, 0.32)
    weight = sampling.body(
        rng, kind, names[0], size, at + off + np.array([0, 0, height]),
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi / 2), rng.uniform(0, 0.3), rng.uniform(0, 6)),
        materials=heavy, velocity=velocity,
    )  # fmt: skip
    mjcf = soft_body.model(room)
    soft_body.add_soft(mjcf, block, "soft", at + np.array([0, 0, half[2] + soft_body.RADIUS]), poses.yaw_tilt(yaw))
    add_body(mjcf.world, weight, "body", **FIRM)
    does = "dents" if family == "dent" else "falls onto"
    begins = ("falling " if family == "dent" and weight.resting else "") + motion(weight, flying=True)
    return soft_body.scene(
        rng, family, view, room, mjcf, (object_from_body(weight, "body"), soft_body.scene_object(block, "soft")),
        f"{article(weight.name)} {begins} {does} {article(block.name)} at rest", rejection_reason,
        start=set_free_velocities(view, {"body": weight}),
    )  # fmt: skip


def _squashed(rollout: Rollout) -> str | None:
    if deformation.first_touch(rollout) > 0.6 * rollout.frames:
        return "no contact in time"
    return None if deformation.strain(rollout, "soft").max() > DEFORMED else "little squashed"


def _pressed(rollout: Rollout) -> str | None:
    """Checks that the body sinks visibly into the block."""
    return None if _depth(rollout).max() > DENTED else "little pressed"


def _dented(rollout: Rollout) -> str | None:
    return None if _depth(rollout)[-1] > DENTED else "little dented"


def _depth(rollout: Rollout) -> np.ndarray:
    """Depth [T] of the lowest point of the block's upper side below its initial height, metres."""
    place = rollout.flexes["soft"]
    start = place[0]
    top = start[:, 2] > start[:, 2].max() - 0.012
    return start[top, 2].mean() - place[:, top, 2].min(axis=1)
