"""An inflated ball falls and bounces; a weight falls on an air cushion."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.inflatable import shell as shells
from phys4d.simulation.inflatable.gas import Gas
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.flex import FIRM
from phys4d.simulation.world.mjcf import add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body


def air_ball(random: np.random.Generator) -> Scene:
    """Draws a scene: a balloon falls from rest, 20 to 50 cm above the floor."""
    view = staging.view(random, distance=(1.3, 1.5), height=(0.5, 0.9), target_height=0.35)
    room = staging.room(random)
    (name,) = staging.colours(random, 1)
    axes = view.level_axes()
    radius = random.uniform(0.17, 0.22)
    ball = shells.shell(
        random, name, "ball", (radius,) * 3, gauge=random.uniform(150, 500), stretching=(500, 800)
    )  # fmt: skip
    at = random.uniform(-0.12, 0.12) * axes[0] + random.uniform(-0.05, 0.15) * axes[1]
    height = radius + random.uniform(0.25, 0.45)
    mjcf = shells.model(room)
    shells.add_shell(mjcf, ball, "ball", at + np.array([0, 0, height]))
    return shells.scene(
        random, "air_ball", view, room, mjcf, {"ball": (ball, Gas("ball", ball.amount))},
        (shells.thing(ball, "ball"),), f"{article(ball.name)} falls from rest and bounces", _bounces,
    )  # fmt: skip


def _bounces(play: Play) -> str | None:
    height = play.flexes["ball"][:, :, 2].mean(axis=1)
    rising = np.flatnonzero(np.diff(height) > 0)
    if not len(rising) or rising[0] > 0.6 * play.frames:
        return "no contact in time"
    lowest = int(rising[0])
    return None if height[lowest:].max() > height[lowest] + 0.05 else "little bounce"


def cushion(random: np.random.Generator) -> Scene:
    """Draws a scene: a ball falls from rest onto an air cushion that rests on the floor."""
    view = staging.view(random, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.28)
    room = staging.room(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    radii = (random.uniform(0.27, 0.32), random.uniform(0.27, 0.32), random.uniform(0.1, 0.12))
    below = shells.shell(
        random, names[1], "cushion", radii, gauge=random.uniform(200, 400), stretching=(800, 1200),
        density=(0.8, 1.2),
    )  # fmt: skip
    at = random.uniform(-0.1, 0.1) * axes[0] + random.uniform(0.0, 0.15) * axes[1]
    radius = random.uniform(0.09, 0.12)
    off = staging.heading(axes, random.uniform(0, 2 * np.pi)) * random.uniform(0.0, 0.04)
    height = 2 * radii[2] + 1.1 * radius + random.uniform(0.15, 0.32)
    weight = staging.body(
        random, "ball", names[0], (radius,), at + off + np.array([0, 0, height]),
        quaternion=staging.turned(random.uniform(0, np.pi), random.uniform(0, np.pi), random.uniform(0, 6)),
        materials=("wood", "rubber", "plastic", "clay", "marble"),
    )  # fmt: skip
    turn = rotation(staging.turned(random.uniform(0, np.pi / 2)))
    mjcf = shells.model(room)
    lying = radii[2] * (1 + below.swelling) + shells.RADIUS
    shells.add_shell(mjcf, below, "cushion", at + np.array([0, 0, lying]), turn)
    add_body(mjcf.world, weight, "body", **FIRM)
    return shells.scene(
        random, "cushion", view, room, mjcf, {"cushion": (below, Gas("cushion", below.amount))},
        (of_body(weight, "body"), shells.thing(below, "cushion")),
        f"{article(weight.name)} from rest falls onto {article(below.name)} at rest", _caught,
    )  # fmt: skip


def _caught(play: Play) -> str | None:
    """The weight comes down on the cushion and presses it in."""
    top = play.flexes["cushion"][:, :, 2].max(axis=1)
    fall = play.geoms["body"].position[:, 2]
    pressed = np.flatnonzero(play.flexes["cushion"][:, :, 2].mean(axis=1) < 0.95 * top[0] / 2)
    if not len(pressed) or pressed[0] > 0.7 * play.frames:
        return "no contact in time"
    return None if fall.min() < fall[0] - 0.1 else "little fall"
