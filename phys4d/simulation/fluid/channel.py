"""Channel: a block of a thin liquid at the top of an inclined channel runs down, onto the floor or against a body."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.fluid import liquids, stage
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.filling import Volume
from phys4d.simulation.particles.incline import Incline
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted


def channel(random: np.random.Generator) -> Scene:
    """Draws a scene: 60 % against a body below the channel's end."""
    view = stage.view(random, distance=(1.3, 1.5))
    room, light = staging.room(random), staging.light(random)
    liquid = liquids.draw(liquids.THIN, random)
    axes = view.level_axes()
    side, slope = random.choice([-1, 1]), random.uniform(0.38, 0.55)
    downhill = staging.heading(axes, random.uniform(-0.6, 0.0) * side) * side
    low = downhill * random.uniform(0.0, 0.08) + axes[1] * random.uniform(-0.05, 0.1)
    incline = Incline(low, downhill, slope, random.uniform(0.75, 0.85), random.uniform(0.14, 0.18))
    wood = muted(random, 0.55, 0.85)
    rails = incline.rails(random.uniform(0.1, 0.14), wood, Texture.PLANKS)
    half = (random.uniform(0.13, 0.17), incline.half_width, random.uniform(0.07, 0.09))
    run = incline.length - half[0] - random.uniform(0.02, 0.12)
    block = Volume("box", half, incline.above(run, half[2]), incline.pose)
    colour, shape = staging.colours(random, 1)[0], stage.OBSTACLES[random.integers(len(stage.OBSTACLES))]
    size = staging.size_of(shape, random.uniform(0.1, 0.14))
    x, y, _ = low + downhill * (size[0] + random.uniform(0.1, 0.2))
    thing = stage.thing_in_the_way(random, colour, shape, size, x, y)
    against = bool(random.uniform() < 0.6)
    floor = Solid("box", (2.0, 2.0, 0.1), (0.0, 0.0, -0.1))
    props = (incline.plank("channel", wood, Texture.PLANKS), *rails, incline.support(wood, Texture.PLANKS))
    end = f"against {article(thing.name)}" if against else "onto the floor"
    return FluidScene(
        family="channel",
        room=room,
        view=view,
        light=light,
        props=(*props, thing) if against else props,
        liquid=liquid,
        volumes=(block,),
        seed=int(random.integers(2**31)),
        caption=f"a block of {liquid.name} from rest runs down a tilted channel {end}",
        happened=stage.reaches(thing if against else floor),
    )
