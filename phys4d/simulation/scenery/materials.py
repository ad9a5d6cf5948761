"""Materials: each has its own texture and narrow ranges of physical parameters, so that its look predicts its motion.
"""

import colorsys
from dataclasses import dataclass

import numpy as np

from phys4d.simulation.mesh_sequence import Texture


@dataclass(frozen=True)
class Material:
    """Texture and ranges (low, high) of physical parameters.

    texture: pattern.
    density: kg/m3.
    restitution: coefficient against a rigid floor.
    friction: Coulomb coefficient.
    """

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

# Hue in degrees; the jitter is smaller than half the distance of two hues, so that names are unambiguous.
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


def saturated(name: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """A saturated RGB colour in 0..1 with the named hue."""
    hue = (HUES[name] + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 360 / 360
    return colorsys.hsv_to_rgb(hue, rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0))


def muted(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """A greyish RGB colour with HSV value between `low` and `high`, for static objects."""
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.03, 0.22), rng.uniform(low, high))
