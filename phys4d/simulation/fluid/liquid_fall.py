"""Liquid fall: a ball of a thin liquid falls or is thrown in a tray, onto a solid body or into a pool."""

import numpy as np

from phys4d.simulation.caption import article, flight
from phys4d.simulation.fluid import layout, liquids
from phys4d.simulation.fluid.hopper import with_hopper
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling


def liquid_fall(rng: np.random.Generator) -> Scene:
    """Samples a scene: 60 % onto a body, 40 % into a pool of the same liquid; half of them are thrown."""
    view = layout.view(rng, distance=(1.4, 1.6))
    room, light = sampling.room(rng), sampling.light(rng)
    liquid = liquids.sample(liquids.LOW_VISCOSITY, rng)
    half_width, half_depth = rng.uniform(0.36, 0.42), rng.uniform(0.26, 0.32)
    radius = rng.uniform(0.13, 0.16)
    x, y = rng.uniform(-0.08, 0.08), rng.uniform(-0.04, 0.06)
    tray = layout.tray(rng, half_width, half_depth, rng.uniform(0.14, 0.2))
    colour, shape = sampling.colours(rng, 1)[0], layout.OBSTACLES[rng.integers(len(layout.OBSTACLES))]
    size = sampling.size_for_radius(shape, rng.uniform(0.11, 0.15))
    obstacle = layout.obstacle(rng, colour, shape, size, x, y)
    seed = int(rng.integers(2**31))
    into_pool, depth = bool(rng.uniform() < 0.4), rng.uniform(0.05, 0.08)
    low = depth if into_pool else obstacle.position[2] + size[-1]
    centre = low + radius + rng.uniform(0.08, 0.2)
    right, away, up = (float(speed) for speed in poses.throw(rng, share=0.5, level=(0.1, 0.5), up=(-0.8, 0.2)))
    # As far to the side as it moves until it arrives.
    before = 0.15 * np.array([right, away, 0.0]) @ view.level_axes()
    ball = InitialVolume(
        "ball", (radius,),
        (float(x + rng.uniform(-0.05, 0.05) - before[0]), float(y - before[1]), float(centre)),
        velocity=(right, away, up),
    )  # fmt: skip
    pool = InitialVolume("box", (half_width, half_depth, depth / 2), (0.0, 0.0, depth / 2))
    target = Solid("box", (half_width, half_depth, depth / 2), pool.position) if into_pool else obstacle
    onto = (
        f"into a pool of {liquid.name} at rest in a tray" if into_pool else f"onto {article(obstacle.name)} in a tray"
    )
    return FluidScene(
        family="liquid_fall",
        room=room,
        view=view,
        light=light,
        props=tuple(tray) if into_pool else (obstacle, *tray),
        liquid=liquid,
        volumes=(ball, pool) if into_pool else (ball,),
        seed=seed,
        caption=(
            f"a round blob of {liquids.litres(ball.cubic_metres)} of {liquid.name} {flight(ball.velocity)} falls {onto}"
        ),
        rejection_reason=layout.reaches(target),
        later_event=with_hopper,
    )
