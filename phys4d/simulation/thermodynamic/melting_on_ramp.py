"""Melting on a ramp: something solid lies on a hot inclined plate, melts and flows down onto the floor."""

import numpy as np

from phys4d.simulation.body import Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.filling import Volume
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.thermodynamic import substances
from phys4d.simulation.thermodynamic.melting import Heater, MeltingScene, hot
from phys4d.simulation.thermodynamic.melting_on_plate import LAYERS, STEEL

THICKNESS = 0.07
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
    uphill = -np.cos(slope) * downhill + np.array([0, 0, np.sin(slope)])
    normal = np.sin(slope) * downhill + np.array([0, 0, np.cos(slope)])
    length = random.uniform(0.7, 0.8)
    middle = low + uphill * length / 2 - normal * THICKNESS / 2
    pose = staging.pitched(downhill, slope)
    ramp = _box("ramp", STEEL, (length / 2, random.uniform(0.24, 0.3), THICKNESS / 2), middle, pose)
    support = _support(random, low, downhill, slope, length)
    half = (random.uniform(0.11, 0.15), random.uniform(0.13, 0.17), random.uniform(0.1, 0.13))
    centre = low + uphill * random.uniform(*RUN) + normal * (half[2] + 0.002)
    block = Volume("box", half, _three(centre), _four(pose))
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


def _support(random: np.random.Generator, low: np.ndarray, downhill: np.ndarray, slope: float, length: float) -> Prop:
    """The block that holds the ramp up, under its high end."""
    half = 0.06
    behind = length * np.cos(slope) - 2.5 * half
    top = (behind - half) * np.tan(slope) - THICKNESS / np.cos(slope)
    foot = low - behind * downhill + np.array([0, 0, top / 2])
    yaw = staging.turned(np.arctan2(downhill[1], downhill[0]))
    return _box("block", muted(random, 0.5, 0.8), (half, 0.15, top / 2), foot, yaw, Texture.PLANKS)


def _box(
    name: str,
    rgb: tuple[float, float, float],
    size: tuple[float, ...],
    middle: np.ndarray,
    pose: np.ndarray,
    texture: Texture = Texture.PLAIN,
) -> Prop:
    return Prop(name, "box", rgb, texture, tuple(float(s) for s in size), 0.4, _three(middle), _four(pose))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _four(values: np.ndarray) -> tuple[float, float, float, float]:
    w, x, y, z = (float(value) for value in values)
    return w, x, y, z
