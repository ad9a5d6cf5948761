"""Looks tell behaviour: each liquid has its own colour and physics."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.body import Colour


@dataclass(frozen=True)
class Kind:
    """rgb in 0..1; ranges (low, high): density in kg/m3, viscosity in Pa s."""

    rgb: Colour
    density: tuple[float, float]
    viscosity: tuple[float, float]


# Water, juice, milk and oil differ by less than what the grid's own viscosity hides.
THIN = {
    "water": Kind((0.16, 0.42, 0.82), (997, 1000), (0.0009, 0.0011)),
    "milk": Kind((0.93, 0.92, 0.88), (1027, 1033), (0.0018, 0.0022)),
    "orange juice": Kind((0.98, 0.58, 0.08), (1040, 1050), (0.0018, 0.0025)),
    "green tea": Kind((0.50, 0.66, 0.16), (997, 1000), (0.0009, 0.0011)),
    "red wine": Kind((0.46, 0.05, 0.13), (988, 994), (0.0013, 0.0017)),
}
THICK = {
    "honey": Kind((0.90, 0.56, 0.06), (1380, 1440), (8.0, 14.0)),
    "red paint": Kind((0.85, 0.08, 0.10), (1150, 1250), (20.0, 35.0)),
    "blue paint": Kind((0.10, 0.22, 0.80), (1150, 1250), (20.0, 35.0)),
    "caramel": Kind((0.62, 0.27, 0.06), (1320, 1370), (60.0, 90.0)),
    "white glue": Kind((0.94, 0.93, 0.89), (1050, 1100), (50.0, 80.0)),
    "tar": Kind((0.08, 0.08, 0.09), (1150, 1250), (250.0, 350.0)),
}


@dataclass(frozen=True)
class Liquid:
    """A liquid: density in kg/m3, viscosity in Pa s."""

    name: str
    rgb: Colour
    density: float
    viscosity: float


def draw(kinds: dict[str, Kind], random: np.random.Generator) -> Liquid:
    """One of these liquids."""
    name = str(random.choice(list(kinds)))
    kind = kinds[name]
    red, green, blue = (min(float(value * random.uniform(0.94, 1.06)), 1.0) for value in kind.rgb)
    return Liquid(name, (red, green, blue), random.uniform(*kind.density), random.uniform(*kind.viscosity))
