"""Varied looks: samples floor, wall, lights and soft shadows of a scene without changing its motion."""

from dataclasses import replace

import numpy as np

from phys4d.simulation.body import Colour
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Light, Scene
from phys4d.simulation.scenery.materials import muted

FLOORS = (Texture.PLANKS, Texture.TILES, Texture.CONCRETE, Texture.CARPET, Texture.CHECKER)
WALLS = (Texture.BRICK, Texture.PLASTER, Texture.STRIPES, Texture.CONCRETE, Texture.PLANKS, Texture.PLAIN)
CONCRETE = ((0.58, 0.58, 0.57), (0.66, 0.64, 0.61), (0.5, 0.52, 0.53))
WOOD = ((0.74, 0.57, 0.39), (0.62, 0.44, 0.28), (0.72, 0.60, 0.48), (0.45, 0.32, 0.22), (0.76, 0.67, 0.55))
BRICK = ((0.66, 0.36, 0.27), (0.58, 0.42, 0.34), (0.78, 0.72, 0.66), (0.50, 0.28, 0.24))
# Softness from a small lamp to an overcast sky; colours of lamp light, daylight and blue hour.
SOFTNESS = (0.05, 0.3)
SUNS = ((1.0, 0.97, 0.92), (1.0, 0.9, 0.76), (0.96, 0.98, 1.0), (1.0, 0.94, 0.86))
SKIES = ((0.96, 0.98, 1.04), (0.9, 0.96, 1.08), (1.04, 1.0, 0.94), (1.0, 1.0, 1.0))
BOUNCE = 0.7
FILLS = ((0.8, 0.9, 1.1), (1.1, 0.9, 0.7), (1.0, 1.0, 1.0), (1.1, 0.8, 0.9))


def varied(scene: Scene, rng: np.random.Generator) -> Scene:
    """Returns the scene with another room and another light."""
    floor_texture = FLOORS[rng.integers(len(FLOORS))]
    wall_texture = WALLS[rng.integers(len(WALLS))]
    room = replace(
        scene.room,
        floor_texture=floor_texture,
        wall_texture=wall_texture,
        floor=_tone(rng, floor_texture, scene.room.floor),
        wall=_tone(rng, wall_texture, scene.room.wall),
    )
    light = replace(
        scene.light,
        # Pale wood would be overexposed in the light of the bare room.
        strength=0.88 * scene.light.strength,
        ambient=0.85 * scene.light.ambient,
        softness=float(rng.uniform(*SOFTNESS)),
        sun=SUNS[rng.integers(len(SUNS))],
        sky=SKIES[rng.integers(len(SKIES))],
    )
    light = _with_second_light(rng, light, room.floor)
    props = tuple(
        replace(prop, rgb=_tone(rng, prop.texture, prop.rgb)) if prop.texture == Texture.PLANKS else prop
        for prop in scene.props
    )
    return replace(scene, room=room, light=light, props=props)


def _with_second_light(rng: np.random.Generator, light: Light, floor: Colour) -> Light:
    """Adds a lamp without shadows from a random direction above, and the light reflected by the floor."""
    azimuth, slope = rng.uniform(-2.2, 2.2), rng.uniform(0.6, 1.6)
    strength, (red, green, blue) = rng.uniform(0.06, 0.22), FILLS[rng.integers(len(FILLS))]
    return replace(
        light,
        fill=(float(slope * np.sin(azimuth)), float(slope * np.cos(azimuth)), -1.0),
        fill_colour=(strength * red, strength * green, strength * blue),
        bounce=(BOUNCE * floor[0], BOUNCE * floor[1], BOUNCE * floor[2]),
    )


def _tone(rng: np.random.Generator, texture: Texture, rgb: Colour) -> Colour:
    """A colour typical of the texture, about as bright as `rgb`."""
    palette = {Texture.PLANKS: WOOD, Texture.BRICK: BRICK, Texture.CONCRETE: CONCRETE}.get(texture)
    if palette is None:
        value = max(rgb)
        return muted(rng, 0.95 * value, 1.05 * value)
    tone = palette[rng.integers(len(palette))]
    factor = rng.uniform(0.88, 1.08)
    return (tone[0] * factor, tone[1] * factor, tone[2] * factor)
