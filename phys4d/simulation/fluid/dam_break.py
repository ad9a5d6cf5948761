"""Dam break: a block of a thin liquid at one end of a tray collapses and flows against an obstacle."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.fluid import layout, liquids
from phys4d.simulation.fluid.hopper import with_hopper
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import sampling


def dam_break(rng: np.random.Generator) -> Scene:
    """Samples a scene: the obstacle is a ball, a box or a cylinder."""
    view = layout.view(rng)
    room, light = sampling.room(rng), sampling.light(rng)
    liquid = liquids.sample(liquids.LOW_VISCOSITY, rng)
    half_width, half_depth = rng.uniform(0.46, 0.54), rng.uniform(0.2, 0.27)
    rim = rng.uniform(0.18, 0.26)
    half = (rng.uniform(0.13, 0.17), half_depth, rng.uniform(0.14, 0.19))
    side = rng.choice([-1, 1])
    block = InitialVolume("box", half, (float(side * (half_width - half[0])), 0.0, half[2]))
    colour, shape = sampling.colours(rng, 1)[0], layout.OBSTACLES[rng.integers(len(layout.OBSTACLES))]
    size = sampling.size_for_radius(shape, rng.uniform(0.1, 0.14))
    x = -side * rng.uniform(0.0, 0.2)
    obstacle = layout.obstacle(rng, colour, shape, size, x, rng.uniform(-0.06, 0.06))
    return FluidScene(
        family="dam_break",
        room=room,
        view=view,
        light=light,
        props=(obstacle, *layout.tray(rng, half_width, half_depth, rim)),
        liquid=liquid,
        volumes=(block,),
        seed=int(rng.integers(2**31)),
        caption=f"a block of {liquid.name} from rest collapses in a tray and flows against {article(obstacle.name)}",
        rejection_reason=layout.reaches(obstacle),
        later_event=with_hopper,
    )
