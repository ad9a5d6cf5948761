"""Thick fall: a lump of a thick liquid falls onto a body or onto the floor, sticks and spreads slowly."""

import numpy as np

from phys4d.simulation.body import Shape
from phys4d.simulation.caption import article
from phys4d.simulation.fluid import liquids, stage
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles.filling import Volume
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging

STICKS = 2.0  # Coulomb friction
LUMPS: dict[Shape, str] = {"ball": "round lump", "box": "square lump", "cylinder": "column"}


def thick_fall(random: np.random.Generator) -> Scene:
    """Draws a scene: 70 % onto a body, 30 % onto the floor."""
    view = staging.view(random, distance=(1.1, 1.3), height=(0.7, 1.0), target_height=0.22)
    room, light = staging.room(random), staging.light(random)
    liquid = liquids.draw(liquids.THICK, random)
    lump = list(LUMPS)[random.integers(len(LUMPS))]
    radius = random.uniform(0.13, 0.16)
    half = {"ball": (1.1 * radius,), "box": (radius, radius, radius), "cylinder": (0.9 * radius, 1.3 * radius)}[lump]
    x, y = random.uniform(-0.1, 0.1), random.uniform(-0.05, 0.1)
    colour, shape = staging.colours(random, 1)[0], stage.OBSTACLES[random.integers(len(stage.OBSTACLES))]
    size = staging.size_of(shape, random.uniform(0.12, 0.16))
    thing = stage.thing_in_the_way(random, colour, shape, size, x, y)
    onto_floor = bool(random.uniform() < 0.3)
    low = 0.0 if onto_floor else thing.position[2] + size[-1]
    height = low + half[-1] + random.uniform(0.04, 0.16)
    turn = staging.turned(random.uniform(0, np.pi / 2))
    volume = Volume(
        lump, half, (float(x + random.uniform(-0.06, 0.06)), float(y), float(height)),
        (float(turn[0]), 0.0, 0.0, float(turn[3])),
    )  # fmt: skip
    floor = Solid("box", (2.0, 2.0, 0.1), (0.0, 0.0, -0.1))
    target = "the floor" if onto_floor else article(thing.name)
    return FluidScene(
        family="thick_fall",
        room=room,
        view=view,
        light=light,
        props=() if onto_floor else (thing,),
        liquid=liquid,
        volumes=(volume,),
        seed=int(random.integers(2**31)),
        caption=f"a {LUMPS[lump]} of thick {liquid.name} from rest falls onto {target} and spreads",
        happened=stage.reaches(floor if onto_floor else thing),
        friction=STICKS,
    )
