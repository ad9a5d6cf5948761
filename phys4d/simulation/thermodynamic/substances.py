"""Substances that melt: each has its own colour and physical parameters, and a range of heater temperatures."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.body import Colour
from phys4d.simulation.mesh_sequence import Texture


@dataclass(frozen=True)
class Substance:
    """A substance that melts; SI units, kelvin.

    name: as in the caption.
    solid, liquid: RGB in 0..1, without glow.
    density: kg/m3.
    heat_capacity: J/(kg K).
    latent_heat: J/kg.
    melting_point: kelvin.
    viscosity: Pa s when molten.
    yield_stress: Pa, of the solid.
    diffusivity: m2/s, the real value.
    initial_temperature: kelvin.
    heater_temperatures: range, kelvin.
    texture: pattern of its particles.
    """

    name: str
    solid: Colour
    liquid: Colour
    density: float
    heat_capacity: float
    latent_heat: float
    melting_point: float
    viscosity: float
    yield_stress: float
    diffusivity: float
    initial_temperature: float
    heater_temperatures: tuple[float, float]
    texture: Texture = Texture.WATER

    @property
    def heat_to_melt(self) -> float:
        """Heat that melts the substance from its initial temperature, over its heat capacity: kelvin."""
        return self.melting_point - self.initial_temperature + self.latent_heat / self.heat_capacity


SUBSTANCES = {
    "wax": Substance(
        "wax", (0.80, 0.20, 0.22), (0.45, 0.02, 0.05), 900, 2500, 2.0e5, 333, 0.5, 1e4, 1e-7, 293, (450, 550)
    ),
    "butter": Substance(
        "butter", (0.96, 0.88, 0.52), (0.88, 0.60, 0.10), 910, 2300, 1.0e5, 306, 0.3, 1e4, 1e-7, 278, (420, 500)
    ),
    "ice": Substance(
        "ice", (0.86, 0.94, 0.98), (0.22, 0.48, 0.80), 917, 2100, 3.34e5, 273.15, 0.002, 2e4, 1.2e-6, 263, (500, 650)
    ),
    "chocolate": Substance(
        "chocolate", (0.46, 0.27, 0.15), (0.22, 0.10, 0.04), 1300, 1700, 4.5e4, 306, 3.0, 1e4, 1.2e-7, 293, (400, 480)
    ),
    "tin": Substance(
        "tin",
        (0.70, 0.71, 0.72),
        (0.90, 0.91, 0.93),
        7280,
        230,
        5.9e4,
        505,
        0.002,
        1e5,
        4e-5,
        293,
        (900, 1100),
        Texture.GLOW,
    ),
    "opaque glass": Substance(
        "opaque glass",
        (0.30, 0.62, 0.56),
        (0.45, 0.75, 0.60),
        2500,
        840,
        0.0,
        1100,
        20.0,
        2e4,
        5e-7,
        900,
        (1500, 1700),
        Texture.GLOW,
    ),
}


def sample(rng: np.random.Generator) -> Substance:
    """Samples one of the substances."""
    names = list(SUBSTANCES)
    return SUBSTANCES[names[rng.integers(len(names))]]
