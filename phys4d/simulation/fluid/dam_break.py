"""Dam break: a block of a thin liquid at one end of a tray collapses and flows against one or two obstacles."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.fluid import layout, liquids
from phys4d.simulation.fluid.hopper import with_hopper
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import sampling


def dam_break(rng: np.random.Generator) -> Scene:
    """Samples a scene: each obstacle is a ball, a box or a cylinder; 40 % have two, side by side."""
    view = layout.view(rng)
    room, light = sampling.room(rng), sampling.light(rng)
    liquid = liquids.sample(liquids.LOW_VISCOSITY, rng)
    half_width, half_depth = rng.uniform(0.46, 0.54), rng.uniform(0.2, 0.27)
    rim = rng.uniform(0.18, 0.26)
    half = (rng.uniform(0.13, 0.17), half_depth, rng.uniform(0.14, 0.19))
    side = rng.choice([-1, 1])
    block = InitialVolume("box", half, (float(side * (half_width - half[0])), 0.0, half[2]))
    two = bool(rng.uniform() < 0.4)
    obstacles = []
    for number, colour in enumerate(sampling.colours(rng, 2)[: 2 if two else 1]):
        shape = layout.OBSTACLES[rng.integers(len(layout.OBSTACLES))]
        size = sampling.size_for_radius(shape, rng.uniform(0.065, 0.085) if two else rng.uniform(0.1, 0.14))
        y = (0.11 if number else -0.11) if two else rng.uniform(-0.06, 0.06)
        obstacles.append(layout.obstacle(rng, colour, shape, size, -side * rng.uniform(0.0, 0.2), y))
    against = " and ".join(article(obstacle.name) for obstacle in obstacles)
    return FluidScene(
        family="dam_break",
        room=room,
        view=view,
        light=light,
        props=(*obstacles, *layout.tray(rng, half_width, half_depth, rim)),
        liquid=liquid,
        volumes=(block,),
        seed=int(rng.integers(2**31)),
        caption=(
            f"a block of {liquids.litres(block.cubic_metres)} of {liquid.name} from rest collapses in a tray and flows "
            f"against {against}"
        ),
        rejection_reason=layout.reaches(obstacles[0]),
        later_event=with_hopper,
    )
