"""A balloon or cushion is inflated and lifts a body or pushes two bodies apart, or it is deflated."""

import numpy as np

from phys4d.simulation.body import Shape
from phys4d.simulation.caption import article
from phys4d.simulation.inflatable import shell as shells
from phys4d.simulation.inflatable.gas import Gas
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.mjcf import FIRM, add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import GRAVITY, Scene
from phys4d.simulation.scenery import poses, sampling

LITRE = 1e-3  # m3
PUMPING = 1.0  # seconds after which the pump stops, before the shell bursts
LIFTED, APART, SLUMPED = 0.06, 0.07, 0.06  # metres, least displacements
LEAKING = (0.7, 1.3)  # seconds that air flows out
SLIPPED = 0.1  # metres above the floor at which the balloon has slipped out from between the bodies


def lift(rng: np.random.Generator) -> Scene:
    """Samples a scene: a flat cushion with a box or cylinder on it is inflated."""
    view = sampling.view(rng, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.28)
    room = sampling.room(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    radii = (rng.uniform(0.2, 0.25), rng.uniform(0.2, 0.25), rng.uniform(0.045, 0.06))
    at = rng.uniform(-0.1, 0.1) * axes[0] + rng.uniform(0.0, 0.15) * axes[1]
    shapes: list[Shape] = ["box", "cylinder"]
    kind = shapes[rng.choice(2, p=[0.65, 0.35])]
    half = rng.uniform(0.09, 0.12)
    size = (half, half, rng.uniform(0.06, 0.1)) if kind == "box" else (half, rng.uniform(0.06, 0.1))
    height = 2 * radii[2] + size[-1] + 2.5 * shells.RADIUS
    load = sampling.body(
        rng, kind, names[0], size, at + np.array([0, 0, height]),
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi / 2)), materials=("wood", "plastic"),
    )  # fmt: skip
    # About the pressure that carries the load.
    gauge = 0.7 * load.mass * GRAVITY / (np.pi * half**2)
    below = shells.sample_shell(rng, names[1], "cushion", radii, gauge=gauge, stretching=(300, 400))
    # Inflow per second of 2 to 3 times its volume.
    litres = round(float(below.volume * rng.uniform(2.0, 3.0) / LITRE))
    mjcf = shells.model(room)
    turn = rotation(poses.yaw_tilt(rng.uniform(0, np.pi / 2)))
    shells.add_shell(mjcf, below, "cushion", at + np.array([0, 0, radii[2] + shells.RADIUS]), turn)
    add_body(mjcf.world, load, "body", **FIRM)

    def rejection_reason(rollout: Rollout) -> str | None:
        rise = rollout.geoms["body"].position[:, 2]
        return None if rise[-1] - rise[0] > LIFTED else "little lifted"

    return shells.scene(
        rng, "lift", view, room, mjcf, {"cushion": (below, Gas("cushion", below.amount, litres * LITRE, PUMPING))},
        (shells.scene_object(below, "cushion"), object_from_body(load, "body")),
        f"{article(below.name)} is inflated by {litres} litres of air per second for {PUMPING:.1f} s "
        f"and lifts {article(load.name)}",
        rejection_reason,
    )  # fmt: skip


def push_apart(rng: np.random.Generator) -> Scene:
    """Samples a scene: a balloon between two bodies is inflated."""
    view = sampling.view(rng, distance=(1.25, 1.4), height=(0.55, 0.9), target_height=0.22)
    room = sampling.room(rng)
    names = sampling.colours(rng, 3)
    axes = view.level_axes()
    radius = rng.uniform(0.115, 0.13)
    balloon = shells.sample_shell(rng, names[0], "ball", (radius,) * 3, gauge=0.0, stretching=(300, 450))
    at = rng.uniform(-0.1, 0.1) * axes[0] + rng.uniform(0.0, 0.15) * axes[1]
    along = poses.heading(axes, rng.uniform(-0.5, 0.5))
    mjcf = shells.model(room)
    shells.add_shell(mjcf, balloon, "balloon", at + np.array([0, 0, radius + shells.RADIUS]))
    bodies = []
    for side, name in zip((-1, 1), names[1:], strict=True):
        # Shapes that roll; between other shapes the balloon would be squeezed upwards.
        kind: Shape = "ball" if rng.uniform() < 0.65 else "cylinder"
        thick = rng.uniform(0.15, 0.17)
        size = (thick,) if kind == "ball" else (thick, rng.uniform(0.13, 0.18))
        lying = poses.heading_pitch(np.cross((0.0, 0.0, 1.0), along), np.pi / 2)
        reach = np.sqrt((radius + thick) ** 2 - (thick - radius) ** 2) + shells.RADIUS
        body = sampling.body(
            rng, kind, name, size, at + side * along * reach + np.array([0, 0, thick]),
            quaternion=lying, materials=("wood",),
        )  # fmt: skip
        bodies.append(body)
        add_body(mjcf.world, body, f"body{len(bodies)}", **FIRM)
    litres = round(float(balloon.volume * rng.uniform(2.2, 2.8) / LITRE))

    def rejection_reason(rollout: Rollout) -> str | None:
        distance = np.linalg.norm(rollout.geoms["body1"].position - rollout.geoms["body2"].position, axis=1)
        height = rollout.flexes["balloon"][-1, :, 2]
        if height.min() > SLIPPED:
            return "the balloon slips out"
        return None if distance[-1] - distance[0] > APART else "little pushed"

    return shells.scene(
        rng, "push_apart", view, room, mjcf,
        {"balloon": (balloon, Gas("balloon", balloon.amount, litres * LITRE, PUMPING))},
        (
            shells.scene_object(balloon, "balloon"),
            object_from_body(bodies[0], "body1"),
            object_from_body(bodies[1], "body2"),
        ),
        f"{article(balloon.name)} is inflated by {litres} litres of air per second for {PUMPING:.1f} s "
        f"between {article(bodies[0].name)} and {article(bodies[1].name)} at rest and pushes them apart",
        rejection_reason,
    )  # fmt: skip


def deflate(rng: np.random.Generator) -> Scene:
    """Samples a scene: a balloon on the floor loses 60 to 80 % of its air in about a second."""
    view = sampling.view(rng, distance=(1.2, 1.4), height=(0.55, 0.9), target_height=0.22)
    room = sampling.room(rng)
    (name,) = sampling.colours(rng, 1)
    axes = view.level_axes()
    radius = rng.uniform(0.2, 0.25)
    balloon = shells.sample_shell(
        rng, name, "ball", (radius, radius, radius * rng.uniform(0.8, 1.0)), gauge=rng.uniform(100, 200),
        stretching=(300, 500), density=(0.4, 0.6),
    )  # fmt: skip
    at = rng.uniform(-0.1, 0.1) * axes[0] + rng.uniform(0.0, 0.15) * axes[1]
    leaking = round(rng.uniform(*LEAKING), 1)
    litres = round(float(0.9 * balloon.amount * rng.uniform(0.6, 0.8) / leaking / LITRE))
    mjcf = shells.model(room)
    height = balloon.radii[2] * (1 + balloon.swelling) + shells.RADIUS
    shells.add_shell(mjcf, balloon, "balloon", at + np.array([0, 0, height]), touches=True)

    def rejection_reason(rollout: Rollout) -> str | None:
        top = rollout.flexes["balloon"][:, :, 2].max(axis=1)
        return None if top[0] - top[-1] > SLUMPED else "little slumped"

    gas = Gas("balloon", balloon.amount, -litres * LITRE, leaking)
    return shells.scene(
        rng, "deflate", view, room, mjcf, {"balloon": (balloon, gas)}, (shells.scene_object(balloon, "balloon"),),
        f"{article(balloon.name)} at rest lets out {litres} litres of air per second for {leaking:.1f} s and slumps",
        rejection_reason,
    )  # fmt: skip
