"""A balloon is inflated under a body and lifts it, or between two bodies and pushes them apart; or it lets out air."""

import numpy as np

from phys4d.simulation.body import Shape
from phys4d.simulation.caption import article
from phys4d.simulation.inflatable import shell as shells
from phys4d.simulation.inflatable.gas import Gas
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.scene import GRAVITY, Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.flex import FIRM
from phys4d.simulation.world.mjcf import add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body

LITRE = 1e-3  # m3
LIFTED, APART, SLUMPED = 0.06, 0.07, 0.06  # metres
SLIPPED = 0.1  # metres above the floor


def lift(random: np.random.Generator) -> Scene:
    """Draws a scene: a flat cushion with a box or cylinder on it is inflated."""
    view = staging.view(random, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.28)
    room = staging.room(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    radii = (random.uniform(0.2, 0.25), random.uniform(0.2, 0.25), random.uniform(0.045, 0.06))
    at = random.uniform(-0.1, 0.1) * axes[0] + random.uniform(0.0, 0.15) * axes[1]
    shapes: list[Shape] = ["box", "cylinder"]
    kind = shapes[random.choice(2, p=[0.65, 0.35])]
    half = random.uniform(0.09, 0.12)
    size = (half, half, random.uniform(0.06, 0.1)) if kind == "box" else (half, random.uniform(0.06, 0.1))
    height = 2 * radii[2] + size[-1] + 2.5 * shells.RADIUS
    load = staging.body(
        random, kind, names[0], size, at + np.array([0, 0, height]),
        quaternion=staging.turned(random.uniform(0, np.pi / 2)), materials=("wood", "plastic"),
    )  # fmt: skip
    # About what carries the load where it lies.
    gauge = 0.7 * load.mass * GRAVITY / (np.pi * half**2)
    below = shells.shell(random, names[1], "cushion", radii, gauge=gauge, stretching=(300, 400))
    # To 3 to 4 times its volume in a second.
    litres = round(float(below.volume * random.uniform(2.0, 3.0) / LITRE))
    mjcf = shells.model(room)
    turn = rotation(staging.turned(random.uniform(0, np.pi / 2)))
    shells.add_shell(mjcf, below, "cushion", at + np.array([0, 0, radii[2] + shells.RADIUS]), turn)
    add_body(mjcf.world, load, "body", **FIRM)

    def happened(play: Play) -> str | None:
        rise = play.geoms["body"].position[:, 2]
        return None if rise[-1] - rise[0] > LIFTED else "little lifted"

    return shells.scene(
        random, "lift", view, room, mjcf, {"cushion": (below, Gas("cushion", below.amount, litres * LITRE))},
        (shells.thing(below, "cushion"), of_body(load, "body")),
        f"{article(below.name)} is inflated by {litres} litres of air per second and lifts {article(load.name)}",
        happened,
    )  # fmt: skip


def push_apart(random: np.random.Generator) -> Scene:
    """Draws a scene: a balloon that fits between two bodies is inflated."""
    view = staging.view(random, distance=(1.25, 1.4), height=(0.55, 0.9), target_height=0.22)
    room = staging.room(random)
    names = staging.colours(random, 3)
    axes = view.level_axes()
    radius = random.uniform(0.115, 0.13)
    balloon = shells.shell(random, names[0], "ball", (radius,) * 3, gauge=0.0, stretching=(300, 450))
    at = random.uniform(-0.1, 0.1) * axes[0] + random.uniform(0.0, 0.15) * axes[1]
    along = staging.heading(axes, random.uniform(-0.5, 0.5))
    mjcf = shells.model(room)
    shells.add_shell(mjcf, balloon, "balloon", at + np.array([0, 0, radius + shells.RADIUS]))
    bodies = []
    for side, name in zip((-1, 1), names[1:], strict=True):
        # What rolls: the balloon would rise between what does not.
        kind: Shape = "ball" if random.uniform() < 0.65 else "cylinder"
        thick = random.uniform(0.15, 0.17)
        size = (thick,) if kind == "ball" else (thick, random.uniform(0.13, 0.18))
        lying = staging.pitched(np.cross((0.0, 0.0, 1.0), along), np.pi / 2)
        reach = np.sqrt((radius + thick) ** 2 - (thick - radius) ** 2) + shells.RADIUS
        body = staging.body(
            random, kind, name, size, at + side * along * reach + np.array([0, 0, thick]),
            quaternion=lying, materials=("wood",),
        )  # fmt: skip
        bodies.append(body)
        add_body(mjcf.world, body, f"body{len(bodies)}", **FIRM)
    litres = round(float(balloon.volume * random.uniform(2.2, 2.8) / LITRE))

    def happened(play: Play) -> str | None:
        distance = np.linalg.norm(play.geoms["body1"].position - play.geoms["body2"].position, axis=1)
        height = play.flexes["balloon"][-1, :, 2]
        if height.min() > SLIPPED:
            return "the balloon slips out"
        return None if distance[-1] - distance[0] > APART else "little pushed"

    return shells.scene(
        random, "push_apart", view, room, mjcf, {"balloon": (balloon, Gas("balloon", balloon.amount, litres * LITRE))},
        (shells.thing(balloon, "balloon"), of_body(bodies[0], "body1"), of_body(bodies[1], "body2")),
        f"{article(balloon.name)} is inflated by {litres} litres of air per second between {article(bodies[0].name)} "
        f"and {article(bodies[1].name)} at rest and pushes them apart",
        happened,
    )  # fmt: skip


def deflate(random: np.random.Generator) -> Scene:
    """Draws a scene: a balloon on the floor lets out most of its air in a second."""
    view = staging.view(random, distance=(1.2, 1.4), height=(0.55, 0.9), target_height=0.22)
    room = staging.room(random)
    (name,) = staging.colours(random, 1)
    axes = view.level_axes()
    radius = random.uniform(0.2, 0.25)
    balloon = shells.shell(
        random, name, "ball", (radius, radius, radius * random.uniform(0.8, 1.0)), gauge=random.uniform(100, 200),
        stretching=(300, 500), density=(0.4, 0.6),
    )  # fmt: skip
    at = random.uniform(-0.1, 0.1) * axes[0] + random.uniform(0.0, 0.15) * axes[1]
    litres = round(float(balloon.amount * random.uniform(0.6, 0.8) / LITRE))
    mjcf = shells.model(room)
    height = balloon.radii[2] * (1 + balloon.swelling) + shells.RADIUS
    shells.add_shell(mjcf, balloon, "balloon", at + np.array([0, 0, height]), touches=True)

    def happened(play: Play) -> str | None:
        top = play.flexes["balloon"][:, :, 2].max(axis=1)
        return None if top[0] - top[-1] > SLUMPED else "little slumped"

    gas = Gas("balloon", balloon.amount, -litres * LITRE, until=0.9)
    return shells.scene(
        random, "deflate", view, room, mjcf, {"balloon": (balloon, gas)}, (shells.thing(balloon, "balloon"),),
        f"{article(balloon.name)} at rest lets out {litres} litres of air per second and slumps", happened,
    )  # fmt: skip
