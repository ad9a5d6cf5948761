"""Looks tell behaviour: each material has its own texture and a narrow range of physics."""

import colorsys
from dataclasses import dataclass

import numpy as np

from phys4d.simulation.mesh_sequence import Texture


@dataclass(frozen=True)
class Material:
    """Ranges (low, high): density in kg/m3, restitution against a rigid floor, Coulomb friction."""

    texture: Texture
    density: tuple[float, float]
    restitution: tuple[float, float]
    friction: tuple[float, float]


MATERIALS = {
    "rubber": Material(Texture.BANDS, (1000, 1200), (0.72, 0.80), (0.75, 0.85)),
    "wood": Material(Texture.GRAIN, (550, 650), (0.42, 0.50), (0.45, 0.55)),
    "steel": Material(Texture.METAL, (7700, 7900), (0.55, 0.62), (0.25, 0.35)),
    "clay": Material(Texture.SPECKLE, (1600, 1800), (0.16, 0.20), (0.65, 0.75)),
    "marble": Material(Texture.MARBLE, (2600, 2700), (0.50, 0.58), (0.35, 0.45)),
    "plastic": Material(Texture.DOTS, (900, 1000), (0.60, 0.68), (0.25, 0.32)),
}

COMMON = ("rubber", "wood", "steel", "clay")

FLOOR_FRICTION = 0.6

# Hue in degrees; the jitter keeps neighbours apart, so that a name is never ambiguous.
HUES = {
    "red": 0,
    "orange": 28,
    "yellow": 54,
    "green": 125,
    "cyan": 183,
    "blue": 224,
    "purple": 275,
    "pink": 325,
}
HUE_JITTER = 6.0


def saturated(name: str, random: np.random.Generator) -> tuple[float, float, float]:
    """A strong RGB colour in 0..1 of the named hue."""
    hue = (HUES[name] + random.uniform(-HUE_JITTER, HUE_JITTER)) % 360 / 360
    return colorsys.hsv_to_rgb(hue, random.uniform(0.85, 1.0), random.uniform(0.85, 1.0))


def muted(random: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """A greyish RGB colour with value between low and high, for what does not move."""
    return colorsys.hsv_to_rgb(random.uniform(), random.uniform(0.03, 0.22), random.uniform(low, high))
