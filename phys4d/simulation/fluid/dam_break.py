"""Dam break: a block of a thin liquid at one end of a tray collapses and meets what stands in the tray."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.fluid import liquids, stage
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles.filling import Volume
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging


def dam_break(random: np.random.Generator) -> Scene:
    """Draws a scene: a ball, a box or a cylinder is in the way."""
    view = stage.view(random)
    room, light = staging.room(random), staging.light(random)
    liquid = liquids.draw(liquids.THIN, random)
    half_width, half_depth = random.uniform(0.46, 0.54), random.uniform(0.2, 0.27)
    rim = random.uniform(0.18, 0.26)
    half = (random.uniform(0.13, 0.17), half_depth, random.uniform(0.14, 0.19))
    side = random.choice([-1, 1])
    block = Volume("box", half, (float(side * (half_width - half[0])), 0.0, half[2]))
    colour, shape = staging.colours(random, 1)[0], stage.OBSTACLES[random.integers(len(stage.OBSTACLES))]
    size = staging.size_of(shape, random.uniform(0.1, 0.14))
    x = -side * random.uniform(0.0, 0.2)
    thing = stage.thing_in_the_way(random, colour, shape, size, x, random.uniform(-0.06, 0.06))
    return FluidScene(
        family="dam_break",
        room=room,
        view=view,
        light=light,
        props=(thing, *stage.tray(random, half_width, half_depth, rim)),
        liquid=liquid,
        volumes=(block,),
        seed=int(random.integers(2**31)),
        caption=f"a block of {liquid.name} from rest collapses in a tray and flows against {article(thing.name)}",
        happened=stage.reaches(thing),
    )
