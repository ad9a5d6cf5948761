"""Liquid fall: a ball of a thin liquid falls into a tray, onto a solid body that stands there or into a pool."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.fluid import liquids, stage
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles.filling import Volume
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging


def liquid_fall(random: np.random.Generator) -> Scene:
    """Draws a scene: 60 % onto a body, 40 % into a pool of the same liquid."""
    view = stage.view(random, distance=(1.4, 1.6))
    room, light = staging.room(random), staging.light(random)
    liquid = liquids.draw(liquids.THIN, random)
    half_width, half_depth = random.uniform(0.36, 0.42), random.uniform(0.26, 0.32)
    radius = random.uniform(0.13, 0.16)
    x, y = random.uniform(-0.08, 0.08), random.uniform(-0.04, 0.06)
    tray = stage.tray(random, half_width, half_depth, random.uniform(0.14, 0.2))
    colour, shape = staging.colours(random, 1)[0], stage.OBSTACLES[random.integers(len(stage.OBSTACLES))]
    size = staging.size_of(shape, random.uniform(0.11, 0.15))
    thing = stage.thing_in_the_way(random, colour, shape, size, x, y)
    seed = int(random.integers(2**31))
    into_pool, depth = bool(random.uniform() < 0.4), random.uniform(0.05, 0.08)
    low = depth if into_pool else thing.position[2] + size[-1]
    centre = low + radius + random.uniform(0.08, 0.2)
    ball = Volume("ball", (radius,), (float(x + random.uniform(-0.05, 0.05)), float(y), float(centre)))
    pool = Volume("box", (half_width, half_depth, depth / 2), (0.0, 0.0, depth / 2))
    target = Solid("box", (half_width, half_depth, depth / 2), pool.position) if into_pool else thing
    onto = f"into a pool of {liquid.name} at rest in a tray" if into_pool else f"onto {article(thing.name)} in a tray"
    return FluidScene(
        family="liquid_fall",
        room=room,
        view=view,
        light=light,
        props=tuple(tray) if into_pool else (thing, *tray),
        liquid=liquid,
        volumes=(ball, pool) if into_pool else (ball,),
        seed=seed,
        caption=f"a round blob of {liquid.name} from rest falls {onto}",
        happened=stage.reaches(target),
    )
