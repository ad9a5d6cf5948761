"""Melting on a ramp: something solid lies on a hot inclined plate, melts and flows down onto the floor."""

import numpy as np

from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.filling import Volume
from phys4d.simulation.particles.incline import Incline
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.thermodynamic import substances
from phys4d.simulation.thermodynamic.melting import Heater, MeltingScene, hot
from phys4d.simulation.thermodynamic.melting_on_plate import LAYERS, STEEL

RUN = (0.34, 0.46)  # metres uphill of the ramp's foot


def melting_on_ramp(random: np.random.Generator) -> Scene:
    """Draws a scene: a block or a cylinder on a ramp 25 to 35 degrees steep."""
    view = staging.view(random, distance=(1.2, 1.4), height=(0.7, 1.0), target_height=0.22)
    room, light = staging.room(random), staging.light(random)
    substance = substances.draw(random)
    temperature = float(10 * round(random.uniform(*substance.heater) / 10))
    axes = view.level_axes()
    side, slope = random.choice([-1, 1]), random.uniform(0.44, 0.61)
    downhill = staging.heading(axes, random.uniform(-0.7, 0.1) * side) * side
    low = downhill * random.uniform(0.0, 0.08) - axes[1] * random.uniform(0.0, 0.1)
    incline = Incline(low, downhill, slope, random.uniform(0.7, 0.8), random.uniform(0.24, 0.3))
    ramp = incline.plank("ramp", STEEL, Texture.PLAIN)
    support = incline.support(muted(random, 0.5, 0.8), Texture.PLANKS)
    half = (random.uniform(0.11, 0.15), random.uniform(0.13, 0.17), random.uniform(0.1, 0.13))
    block = Volume("box", half, incline.above(random.uniform(*RUN), half[2] + 0.002), incline.pose)
    exchange = LAYERS * substance.to_melt / (temperature - substance.melting_point)
    return MeltingScene(
        family="melting_on_ramp",
        room=room,
        view=view,
        light=light,
        props=(hot(ramp, temperature), support),
        substance=substance,
        volumes=(block,),
        seed=int(random.integers(2**31)),
        caption=f"a block of {substance.name} at rest on a ramp at {temperature:.0f} K melts and runs down",
        hottest=temperature,
        heaters=(Heater(0, temperature, exchange),),
    )
