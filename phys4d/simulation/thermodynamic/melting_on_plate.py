"""Melting on a plate: a solid stands on a hot plate or falls onto it, melts from below and spreads."""

import numpy as np

from phys4d.simulation.body import Prop, Shape
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.initial_particles import InitialVolume
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.thermodynamic import substances
from phys4d.simulation.thermodynamic.melting import Heater, MeltingScene, glowing_prop

STEEL = (0.25, 0.25, 0.27)
LAYERS = 250.0  # 1/s, rate at which the plate melts layers of particles in contact
SHAPES: tuple[Shape, ...] = ("box", "cylinder", "ball")


def melting_on_plate(rng: np.random.Generator) -> Scene:
    """Samples a scene: 60 % stand on the plate, 40 % fall onto it."""
    view = sampling.view(rng, distance=(1.1, 1.3), height=(0.75, 1.05), target_height=0.2)
    room, light = sampling.room(rng), sampling.light(rng)
    substance = substances.sample(rng)
    temperature = float(10 * round(rng.uniform(*substance.heater_temperatures) / 10))
    thickness = rng.uniform(0.05, 0.08)
    size = (rng.uniform(0.4, 0.48), rng.uniform(0.32, 0.38), thickness / 2)
    w, i, j, k = (float(value) for value in poses.yaw_tilt(rng.uniform(-0.3, 0.3)))
    plate = Prop("hot plate", "box", STEEL, Texture.PLAIN, size, 0.4, (0.0, 0.0, thickness / 2), (w, i, j, k))
    shape = SHAPES[rng.integers(len(SHAPES))]
    radius = rng.uniform(0.16, 0.19)
    half = {"box": (radius, 0.9 * radius, radius), "cylinder": (radius, radius), "ball": (1.1 * radius,)}[shape]
    falls = bool(rng.uniform() < 0.4)
    height = thickness + half[-1] + (rng.uniform(0.06, 0.16) if falls else 0.0)
    turn = poses.yaw_tilt(rng.uniform(0, np.pi / 2))
    volume = InitialVolume(
        shape, half, (float(rng.uniform(-0.1, 0.1)), float(rng.uniform(-0.05, 0.05)), float(height)),
        (float(turn[0]), 0.0, 0.0, float(turn[3])),
    )  # fmt: skip
    start = f"from rest falls onto a plate at {temperature:.0f} K" if falls else "at rest on a plate"
    name = {"box": "block", "cylinder": "cylinder", "ball": "ball"}[shape]
    does = f"{start} and melts" if falls else f"{start} at {temperature:.0f} K melts"
    exchange = LAYERS * substance.heat_to_melt / (temperature - substance.melting_point)
    return MeltingScene(
        family="melting_on_plate",
        room=room,
        view=view,
        light=light,
        props=(glowing_prop(plate, temperature),),
        substance=substance,
        volumes=(volume,),
        seed=int(rng.integers(2**31)),
        caption=f"a {name} of {substance.name} {does}",
        hottest=temperature,
        heaters=(Heater(0, temperature, exchange),),
    )
