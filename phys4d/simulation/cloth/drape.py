"""Drape: a cloth falls from rest onto a body that rests on the floor, and drapes over it."""

import numpy as np

from phys4d.simulation.body import Shape
from phys4d.simulation.caption import article
from phys4d.simulation.cloth import fabric
from phys4d.simulation.cloth.air import Air
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import of_body

HANGS = 0.06  # metres that a quarter of the cloth hangs below its highest point in the end


def drape(random: np.random.Generator) -> Scene:
    """Draws a scene: a level or slightly tilted cloth, 5 to 20 cm above a ball, a box or a cylinder."""
    view = staging.view(random, distance=(1.35, 1.55), height=(0.75, 1.1), target_height=0.27)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[random.choice(3, p=[0.4, 0.3, 0.3])]
    size = staging.size_of(shape, random.uniform(0.17, 0.21))
    at = random.uniform(-0.1, 0.1) * axes[0] + random.uniform(-0.05, 0.15) * axes[1]
    height = staging.standing(shape, size)
    below = staging.body(
        random, shape, names[1], size, at + np.array([0, 0, height]),
        quaternion=staging.turned(random.uniform(0, np.pi / 2)),
    )  # fmt: skip
    half = random.uniform(0.34, 0.42, size=2)
    cloth = fabric.cloth(random, names[0], (half[0], half[1]))
    off = random.uniform(-0.3, 0.3, size=2) * size[0]
    tilt = random.uniform(0, 0.15)
    gap = random.uniform(0.05, 0.2) + np.sin(tilt) * float(half.max())
    turn = rotation(staging.turned(random.uniform(0, np.pi / 2), tilt, random.uniform(0, 2 * np.pi)))
    centre = at + off[0] * axes[0] + off[1] * axes[1] + np.array([0, 0, 2 * height + gap])
    mjcf = fabric.model(room)
    fabric.add_cloth(mjcf, cloth, cloth.flat @ turn.T + centre)
    add_body(mjcf.world, below, "body")
    return WorldScene(
        family="drape",
        kind="cloth",
        room=room,
        view=view,
        light=light,
        things=(fabric.thing(cloth), of_body(below, "body")),
        model=mjcf.text(),
        caption=f"{article(cloth.name)} falls from rest onto {article(below.name)} at rest",
        steps_per_second=fabric.STEPS_PER_SECOND,
        happened=_drapes,
        drive=Air(),
        physics=fabric.PHYSICS,
        penetration=fabric.PENETRATION,
    )


def _drapes(play: Play) -> str | None:
    """The cloth stays on the body and hangs down around it."""
    heights = play.flexes["cloth"][-1, :, 2]
    top = play.geoms["body"].position[-1, 2]
    if heights.max() < top:
        return "the cloth slides off"
    return None if heights.max() - np.quantile(heights, 0.25) > HANGS else "the cloth does not hang"
