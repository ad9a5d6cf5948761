"""Channel: a block of a thin liquid runs down an inclined channel, onto the floor or against a body."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.fluid import layout, liquids
from phys4d.simulation.fluid.hopper import with_hopper
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.incline import Incline
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted


def channel(rng: np.random.Generator) -> Scene:
    """Samples a scene: 60 % against a body below the channel's end."""
    view = layout.view(rng, distance=(1.3, 1.5))
    room, light = sampling.room(rng), sampling.light(rng)
    liquid = liquids.sample(liquids.LOW_VISCOSITY, rng)
    axes = view.level_axes()
    side, degrees = rng.choice([-1, 1]), int(rng.integers(22, 32))
    slope = float(np.deg2rad(degrees))
    downhill = poses.heading(axes, rng.uniform(-0.6, 0.0) * side) * side
    low = downhill * rng.uniform(0.0, 0.08) + axes[1] * rng.uniform(-0.05, 0.1)
    incline = Incline(low, downhill, slope, rng.uniform(0.75, 0.85), rng.uniform(0.14, 0.18))
    wood = muted(rng, 0.55, 0.85)
    rails = incline.rails(rng.uniform(0.1, 0.14), wood, Texture.PLANKS)
    half = (rng.uniform(0.13, 0.17), incline.half_width, rng.uniform(0.07, 0.09))
    run = incline.length - half[0] - rng.uniform(0.02, 0.12)
    block = InitialVolume("box", half, incline.above(run, half[2]), incline.pose)
    colour, shape = sampling.colours(rng, 1)[0], layout.OBSTACLES[rng.integers(len(layout.OBSTACLES))]
    size = sampling.size_for_radius(shape, rng.uniform(0.1, 0.14))
    x, y, _ = low + downhill * (size[0] + rng.uniform(0.1, 0.2))
    obstacle = layout.obstacle(rng, colour, shape, size, x, y)
    against = bool(rng.uniform() < 0.6)
    floor = Solid("box", (2.0, 2.0, 0.1), (0.0, 0.0, -0.1))
    props = (incline.plank("channel", wood, Texture.PLANKS), *rails, incline.support(wood, Texture.PLANKS))
    end = f"against {article(obstacle.name)}" if against else "onto the floor"
    return FluidScene(
        family="channel",
        room=room,
        view=view,
        light=light,
        props=(*props, obstacle) if against else props,
        liquid=liquid,
        volumes=(block,),
        seed=int(rng.integers(2**31)),
        caption=(
            f"a block of {liquids.litres(block.cubic_metres)} of {liquid.name} from rest runs down a channel "
            f"{degrees} degrees steep {end}"
        ),
        rejection_reason=layout.reaches(obstacle if against else floor),
        later_event=with_hopper,
    )
