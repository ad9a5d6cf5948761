"""A ball meets a held cloth: it falls into a hammock, or flies into a curtain."""

import mujoco
import numpy as np

from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.cloth import fabric, rack
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.flex import FIRM
from phys4d.simulation.world.mjcf import add_body, intangible
from phys4d.simulation.world.play import Drive, Play
from phys4d.simulation.world.thing import of_body

LIGHT = ("wood", "plastic", "rubber")
PUSHED = 0.05  # metres that some of the cloth moves


def hammock(random: np.random.Generator) -> Scene:
    """Draws a scene: a cloth held level by four poles at its corners, and a ball 10 to 30 cm above it."""
    view = staging.view(random, distance=(1.35, 1.55), height=(0.85, 1.15), target_height=0.38)
    room = staging.room(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    half = random.uniform(0.27, 0.34, size=2)
    cloth = fabric.cloth(random, names[1], (half[0], half[1]), count=21, fabrics=("leather",))
    middle = random.uniform(-0.06, 0.06) * axes[0] + random.uniform(0.05, 0.2) * axes[1]
    middle = middle + np.array([0, 0, random.uniform(0.38, 0.48)])
    turn = rotation(staging.turned(random.uniform(0, np.pi / 2)))
    points = cloth.flat @ turn.T + middle
    last = cloth.count - 1
    corners = np.array([0, last, last * cloth.count, last * cloth.count + last])
    grey = muted(random, 0.3, 0.6)
    props = tuple(rack.pole(points[corner], float(middle[2]) + 0.03, grey) for corner in corners)
    radius = random.uniform(0.08, 0.11)
    off = staging.heading(axes, random.uniform(0, 2 * np.pi)) * random.uniform(0.0, 0.08)
    place = middle + off + np.array([0, 0, radius + random.uniform(0.1, 0.3)])
    ball = staging.body(random, "ball", names[0], (radius,), place, materials=("wood", "plastic"))
    mjcf = fabric.model(room, props)
    intangible(mjcf, "prop")
    fabric.add_cloth(mjcf, cloth, points, pinned=corners, selfcollide=False)
    add_body(mjcf.world, ball, "body", **FIRM)

    def happened(play: Play) -> str | None:
        height = play.geoms["body"].position[:, 2]
        if height.argmin() > 0.8 * play.frames:
            return "no contact in time"
        return None if height.min() < middle[2] + radius - PUSHED else "the cloth hardly gives"

    return fabric.scene(
        random, "hammock", view, room, mjcf, (of_body(ball, "body"), fabric.thing(cloth)),
        f"{article(ball.name)} from rest falls into {article(cloth.name)} held level at its corners by four poles",
        happened, props=props,
    )  # fmt: skip


def billow(random: np.random.Generator) -> Scene:
    """Draws a scene: a ball flies into a cloth that hangs from a bar, from its side or towards it from the front."""
    view = staging.view(random, distance=(1.5, 1.7), height=(0.65, 0.95), target_height=0.42)
    room = staging.room(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    cloth = fabric.cloth(random, names[1], (random.uniform(0.28, 0.33), random.uniform(0.28, 0.34)))
    side = float(random.choice([-1, 1]))
    across = staging.heading(axes, random.choice([-1, 1]) * random.uniform(0.7, 1.1))
    height = 2 * cloth.half[0] + random.uniform(0.08, 0.16)
    middle = -side * random.uniform(0.0, 0.1) * axes[0] + random.uniform(0.05, 0.2) * axes[1]
    middle = middle + np.array([0, 0, height])
    points = middle - (cloth.flat[:, :1] + cloth.half[0]) * np.array([0, 0, 1.0]) + cloth.flat[:, 1:2] * across
    reach = (cloth.half[1] + 0.05) * across
    props = rack.rack(middle - reach, middle + reach, muted(random, 0.3, 0.6))
    radius = random.uniform(0.08, 0.11)
    velocity = staging.to_tenths(side * random.uniform(1.0, 1.6), 0, random.uniform(0.5, 1.3))
    away = radius + random.uniform(0.12, 0.2)
    place = middle - side * away * axes[0] - np.array([0, 0, random.uniform(0.9, 1.2) * cloth.half[0]])
    ball = staging.body(random, "ball", names[0], (radius,), place, velocity=velocity, materials=LIGHT)
    mjcf = fabric.model(room, props)
    intangible(mjcf, "prop")
    fabric.add_cloth(mjcf, cloth, points, pinned=np.arange(cloth.count))
    add_body(mjcf.world, ball, "body", **FIRM)

    def happened(play: Play) -> str | None:
        place = play.flexes["cloth"]
        moved = np.linalg.norm(place - place[0], axis=2).max(axis=1)
        pushed = np.flatnonzero(moved > PUSHED)
        return None if len(pushed) and pushed[0] < 0.6 * play.frames else "no contact in time"

    linear = velocity @ axes
    return fabric.scene(
        random, "billow", view, room, mjcf, (of_body(ball, "body"), fabric.thing(cloth)),
        f"{article(ball.name)} {motion(ball, flying=True)} hits {article(cloth.name)} that hangs at rest from a bar",
        happened, props=props, start=_thrown(ball, linear),
    )  # fmt: skip


def _thrown(ball: Body, linear: np.ndarray) -> Drive:
    """Gives the free body "body" its velocity, world m/s [3]."""
    assert any(ball.velocity)

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        first = model.joint("body").dofadr[0]
        data.qvel[first : first + 3] = linear

    return start
