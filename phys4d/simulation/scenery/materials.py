"""Materials: each has its own texture and narrow ranges of physical parameters, so that its look predicts its motion.

Rolling friction is a lever arm: the load's torque against rolling is the load times this length. Sources:
    steel on steel 0.5 mm, plastic on steel 2 mm, hard rubber on steel 7 mm: Lust, "CDA3000 engineering guide", table
    7.22; wood on wood 1.5 mm (0.06 inch): eMachineShop, "Rolling friction". Marble has no entry in such tables; it is
    as hard as iron and less even than a bearing, hence 1 mm.
    Clay yields under its weight: the floor presses on the front half of the contact area only, 4 a / (3 pi) ahead of
    its centre, where a is the area's radius. A ball of 0.2 m radius weighs 560 N, which clay carries with about
    0.2 N/mm2 on a = 3 cm: 12 mm.
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
    rolling_friction: metres, lever arm of the resistance to rolling.
    """

    texture: Texture
    density: tuple[float, float]
    restitution: tuple[float, float]
    friction: tuple[float, float]
    rolling_friction: float


MATERIALS = {
    "rubber": Material(Texture.BANDS, (1000, 1200), (0.72, 0.80), (0.75, 0.85), 7e-3),
    "wood": Material(Texture.GRAIN, (550, 650), (0.42, 0.50), (0.45, 0.55), 1.5e-3),
    "steel": Material(Texture.METAL, (7700, 7900), (0.55, 0.62), (0.25, 0.35), 5e-4),
    "clay": Material(Texture.SPECKLE, (1600, 1800), (0.16, 0.20), (0.65, 0.75), 1.2e-2),
    "marble": Material(Texture.MARBLE, (2600, 2700), (0.50, 0.58), (0.35, 0.45), 1e-3),
    "plastic": Material(Texture.DOTS, (900, 1000), (0.60, 0.68), (0.25, 0.32), 2e-3),
}

COMMON = ("rubber", "wood", "steel", "clay")

FLOOR_FRICTION = 0.6

# Friction against spinning over friction against rolling, for a Coulomb coefficient of 1. The area of radius a gives
# 4 a / (3 pi) against rolling, as above, and 3 pi a / 16 against spinning under the pressure of Hertz (Johnson,
# "Contact mechanics", 1985).
SPINNING_OVER_ROLLING = (3 * np.pi / 16) / (4 / (3 * np.pi))

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


def round_contact(friction: float, rolling_friction: float) -> tuple[float, float, float]:
    """Friction of a round body on a floor: Coulomb coefficient, then lever arms in metres against spinning and rolling.

    friction: Coulomb coefficient.
    rolling_friction: metres.
    """
    return friction, SPINNING_OVER_ROLLING * friction * rolling_friction, rolling_friction


def saturated(name: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """A saturated RGB colour in 0..1 with the named hue."""
    hue = (HUES[name] + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 360 / 360
    return colorsys.hsv_to_rgb(hue, rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0))


def muted(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """A greyish RGB colour with HSV value between `low` and `high`, for static objects."""
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.03, 0.22), rng.uniform(low, high))
