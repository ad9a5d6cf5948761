"""Liquids: each has its own colour and physical parameters, so that its look predicts its motion."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.body import Colour


@dataclass(frozen=True)
class LiquidRanges:
    """Ranges (low, high) of a liquid's physical parameters.

    rgb: colour in 0..1.
    density: kg/m3.
    viscosity: Pa s.
    """

    rgb: Colour
    density: tuple[float, float]
    viscosity: tuple[float, float]


# The numerical viscosity of the grid is larger than the differences between these viscosities.
LOW_VISCOSITY = {
    "water": LiquidRanges((0.16, 0.42, 0.82), (997, 1000), (0.0009, 0.0011)),
    "milk": LiquidRanges((0.93, 0.92, 0.88), (1027, 1033), (0.0018, 0.0022)),
    "orange juice": LiquidRanges((0.98, 0.58, 0.08), (1040, 1050), (0.0018, 0.0025)),
    "green tea": LiquidRanges((0.50, 0.66, 0.16), (997, 1000), (0.0009, 0.0011)),
    "red wine": LiquidRanges((0.46, 0.05, 0.13), (988, 994), (0.0013, 0.0017)),
}
HIGH_VISCOSITY = {
    "honey": LiquidRanges((0.90, 0.56, 0.06), (1380, 1440), (8.0, 14.0)),
    "red paint": LiquidRanges((0.85, 0.08, 0.10), (1150, 1250), (20.0, 35.0)),
    "blue paint": LiquidRanges((0.10, 0.22, 0.80), (1150, 1250), (20.0, 35.0)),
    "caramel": LiquidRanges((0.62, 0.27, 0.06), (1320, 1370), (60.0, 90.0)),
    "white glue": LiquidRanges((0.94, 0.93, 0.89), (1050, 1100), (50.0, 80.0)),
    "tar": LiquidRanges((0.08, 0.08, 0.09), (1150, 1250), (250.0, 350.0)),
}


@dataclass(frozen=True)
class Liquid:
    """A liquid.

    name, rgb: as in the caption, and the colour in 0..1.
    density: kg/m3.
    viscosity: Pa s.
    """

    name: str
    rgb: Colour
    density: float
    viscosity: float


def litres(cubic_metres: float) -> str:
    """A volume in words, to the litre."""
    return f"{1000 * cubic_metres:.0f} litres"


def sample(ranges: dict[str, LiquidRanges], rng: np.random.Generator) -> Liquid:
    """Samples one of these liquids."""
    name = str(rng.choice(list(ranges)))
    chosen = ranges[name]
    red, green, blue = (min(float(value * rng.uniform(0.94, 1.06)), 1.0) for value in chosen.rgb)
    return Liquid(name, (red, green, blue), rng.uniform(*chosen.density), rng.uniform(*chosen.viscosity))
