"""Beam: a soft bar, clamped at one end, bends under its weight from a level start and swings."""

import numpy as np

from phys4d.simulation.body import Prop
from phys4d.simulation.caption import article
from phys4d.simulation.deformable import soft as softness
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.mjcf import intangible
from phys4d.simulation.world.play import Play

SAGS = 0.1  # metres that the free end moves down


def sag(random: np.random.Generator) -> Scene:
    """Draws a scene: the bar sticks out of a fixed block to one side, level or tilted upwards by up to 30 degrees."""
    view = staging.view(random, distance=(1.15, 1.35), height=(0.5, 0.85), target_height=0.35)
    room = staging.room(random)
    (name,) = staging.colours(random, 1)
    axes = view.level_axes()
    length, thick = random.uniform(0.3, 0.36), random.uniform(0.05, 0.065)
    body = softness.soft(
        random, name, "box", (length, random.uniform(0.06, 0.1), thick), points=(15, 5, 5),
        materials=("jelly", "soft rubber", "soft rubber"),
    )  # fmt: skip
    side = float(random.choice([-1, 1]))
    out = staging.heading(axes, random.uniform(-0.5, 0.5)) * side
    rise = random.uniform(0.0, 0.5)
    turn = staging.pitched(out, -rise)
    along = np.cos(rise) * out + np.array([0, 0, np.sin(rise)])
    held = -0.3 * axes[0] * side + random.uniform(0.0, 0.15) * axes[1] + np.array([0, 0, random.uniform(0.4, 0.5)])
    # Two layers of its points are in the block.
    buried = 2 * length / 14
    x, y, z = (float(value) for value in held + along * (buried - 0.09))
    w, i, j, k = (float(value) for value in turn)
    half = (0.09, body.size[1] + 0.05, thick + 0.05)
    grey = muted(random, 0.45, 0.75)
    props = (
        Prop("block", "box", grey, Texture.GRAIN, half, 0.5, (x, y, z), (w, i, j, k)),
        Prop("column", "cylinder", grey, Texture.GRAIN, (0.05, (z - 0.04) / 2), 0.5, (x, y, (z - 0.04) / 2)),
    )
    mjcf = softness.model(room, props)
    intangible(mjcf, "prop")
    pinned = np.flatnonzero(body.rest[:, 0] < -length + buried * 1.01)
    softness.add_soft(mjcf, body, "soft", held + along * length, turn, pinned=pinned)

    def happened(play: Play) -> str | None:
        tip = play.flexes["soft"][:, body.rest[:, 0] > 0.9 * length, 2].mean(axis=1)
        return None if tip[0] - tip.min() > SAGS else "little sag"

    return softness.scene(
        random, "sag", view, room, mjcf, (softness.thing(body, "soft"),),
        f"{article(body.colour)} {body.material} bar held by a block at one end bends down from rest", happened,
        props=props,
    )  # fmt: skip
