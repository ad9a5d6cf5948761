"""Melting on a ramp: a solid lies on a hot inclined plate, melts and flows down onto the floor."""

import numpy as np

from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.incline import Incline
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted
from phys4d.simulation.thermodynamic import substances
from phys4d.simulation.thermodynamic.melting import Heater, MeltingScene, glowing_prop
from phys4d.simulation.thermodynamic.melting_on_plate import LAYERS, STEEL

RUN = (0.34, 0.46)  # metres from the ramp's low edge to the block


def melting_on_ramp(rng: np.random.Generator) -> Scene:
    """Samples a scene: a block on a ramp 25 to 35 degrees steep."""
    view = sampling.view(rng, distance=(1.2, 1.4), height=(0.7, 1.0), target_height=0.22)
    room, light = sampling.room(rng), sampling.light(rng)
    substance = substances.sample(rng)
    temperature = float(10 * round(rng.uniform(*substance.heater_temperatures) / 10))
    axes = view.level_axes()
    side, degrees = rng.choice([-1, 1]), int(rng.integers(25, 36))
    slope = float(np.deg2rad(degrees))
    downhill = poses.heading(axes, rng.uniform(-0.7, 0.1) * side) * side
    low = downhill * rng.uniform(0.0, 0.08) - axes[1] * rng.uniform(0.0, 0.1)
    incline = Incline(low, downhill, slope, rng.uniform(0.7, 0.8), rng.uniform(0.24, 0.3))
    ramp = incline.plank("ramp", STEEL, Texture.PLAIN)
    support = incline.support(muted(rng, 0.5, 0.8), Texture.PLANKS)
    half = (rng.uniform(0.11, 0.15), rng.uniform(0.13, 0.17), rng.uniform(0.1, 0.13))
    block = InitialVolume("box", half, incline.above(rng.uniform(*RUN), half[2] + 0.002), incline.pose)
    exchange = LAYERS * substance.heat_to_melt / (temperature - substance.melting_point)
    return MeltingScene(
        family="melting_on_ramp",
        room=room,
        view=view,
        light=light,
        props=(glowing_prop(ramp, temperature), support),
        substance=substance,
        volumes=(block,),
        seed=int(rng.integers(2**31)),
        caption=(
            f"a block of {substance.name} at rest on a ramp {degrees} degrees steep, at {temperature:.0f} K, melts "
            "and runs down"
        ),
        hottest=temperature,
        heaters=(Heater(0, temperature, exchange),),
    )
