"""Thick fall: a lump of a viscous liquid falls or is thrown onto a body or the floor, sticks and spreads slowly."""

import numpy as np

from phys4d.simulation.body import Shape
from phys4d.simulation.caption import article, flight
from phys4d.simulation.fluid import layout, liquids
from phys4d.simulation.fluid.hopper import with_hopper
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

STICKS = 2.0  # Coulomb friction
LUMPS: dict[Shape, str] = {"ball": "round lump", "box": "square lump", "cylinder": "column"}


def thick_fall(rng: np.random.Generator) -> Scene:
    """Samples a scene: 70 % onto a body, 30 % onto the floor; half of them are thrown."""
    view = sampling.view(rng, distance=(1.1, 1.3), height=(0.7, 1.0), target_height=0.22)
    room, light = sampling.room(rng), sampling.light(rng)
    liquid = liquids.sample(liquids.HIGH_VISCOSITY, rng)
    lump = list(LUMPS)[rng.integers(len(LUMPS))]
    radius = rng.uniform(0.13, 0.16)
    half = {"ball": (1.1 * radius,), "box": (radius, radius, radius), "cylinder": (0.9 * radius, 1.3 * radius)}[lump]
    x, y = rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.1)
    colour, shape = sampling.colours(rng, 1)[0], layout.OBSTACLES[rng.integers(len(layout.OBSTACLES))]
    size = sampling.size_for_radius(shape, rng.uniform(0.12, 0.16))
    obstacle = layout.obstacle(rng, colour, shape, size, x, y)
    onto_floor = bool(rng.uniform() < 0.3)
    low = 0.0 if onto_floor else obstacle.position[2] + size[-1]
    height = low + half[-1] + rng.uniform(0.04, 0.16)
    turn = poses.yaw_tilt(rng.uniform(0, np.pi / 2))
    right, away, up = (float(speed) for speed in poses.throw(rng, share=0.5, level=(0.1, 0.5), up=(-0.8, 0.2)))
    before = 0.12 * np.array([right, away, 0.0]) @ view.level_axes()
    volume = InitialVolume(
        lump, half, (float(x + rng.uniform(-0.06, 0.06) - before[0]), float(y - before[1]), float(height)),
        (float(turn[0]), 0.0, 0.0, float(turn[3])), (right, away, up),
    )  # fmt: skip
    floor = Solid("box", (2.0, 2.0, 0.1), (0.0, 0.0, -0.1))
    target = "the floor" if onto_floor else article(obstacle.name)
    return FluidScene(
        family="thick_fall",
        room=room,
        view=view,
        light=light,
        props=() if onto_floor else (obstacle,),
        liquid=liquid,
        volumes=(volume,),
        seed=int(rng.integers(2**31)),
        caption=(
            f"a {LUMPS[lump]} of {liquids.litres(volume.cubic_metres)} of thick {liquid.name} "
            f"{flight(volume.velocity)} falls onto {target} and spreads"
        ),
        rejection_reason=layout.reaches(floor if onto_floor else obstacle),
        later_event=with_hopper,
        friction=STICKS,
    )
