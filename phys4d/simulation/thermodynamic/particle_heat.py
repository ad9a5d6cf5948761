"""Heat of particles: conduction between neighbours, heating in contact with heaters, and melting."""

from collections.abc import Callable
from typing import Any

import numpy as np

from phys4d.simulation.particles.newton import DEVICE, newton
from phys4d.simulation.thermodynamic.substances import Substance

REACH = 1.8  # radius of a particle's neighbourhood, over the spacing


class ParticleHeat:
    """Temperature of the particles of one substance, with latent heat.

    The attribute enthalpy, float64 [N], is heat over heat capacity in kelvin: below the melting point it is the
    temperature.

    substance: its properties.
    first: float64 [N, 3], metres, initial positions.
    spacing: metres between particles.
    diffusivity: m2/s.
    """

    def __init__(self, substance: Substance, first: np.ndarray, spacing: float, diffusivity: float) -> None:
        newton()
        import warp

        from phys4d.simulation.particles.conduction_kernel import conduct

        self._warp, self._conduct = warp, conduct
        self.substance, self.spacing = substance, spacing
        self.enthalpy = np.full(len(first), float(substance.initial_temperature))
        self._grid = warp.HashGrid(64, 64, 64, device=DEVICE)
        self._rate = warp.zeros(len(first), dtype=float, device=DEVICE)
        self._coefficient = diffusivity / _second_moment(spacing)

    @property
    def temperature(self) -> np.ndarray:
        """Temperature in kelvin, float64 [N]; it stays at the melting point while latent heat is absorbed."""
        melting, latent = self.substance.melting_point, self.substance.latent_heat / self.substance.heat_capacity
        return np.where(self.enthalpy < melting, self.enthalpy, np.maximum(self.enthalpy - latent, melting))

    @property
    def molten(self) -> np.ndarray:
        """Molten share of each particle, float64 [N]."""
        melting, latent = self.substance.melting_point, self.substance.latent_heat / self.substance.heat_capacity
        softening = max(latent, 0.05 * melting)  # glass has no latent heat and softens over a range
        return np.clip((self.enthalpy - melting) / softening, 0, 1)

    def advance(self, points: Any, seconds: float, gain: Callable[[np.ndarray], np.ndarray], fastest: float) -> None:
        """Advances by `seconds` in steps that are stable for an explicit scheme.

        points: Warp array [N] of vectors, metres.
        gain: temperatures [N] -> heating in K/s [N] by heaters.
        fastest: 1/s, highest heat transfer rate of a heater.
        """
        # Crowded particles have up to 1.5 times as many neighbours as in the lattice.
        steps = int(np.ceil(seconds * (1.5 * self._coefficient * _weight_sum() + fastest) / 0.9))
        self._grid.build(points, REACH * self.spacing)
        for _ in range(steps):
            now = self.temperature
            temperature: Any = self._warp.array(now.astype(np.float32), device=DEVICE)
            self._warp.launch(
                self._conduct, dim=len(self.enthalpy), device=DEVICE,
                inputs=[self._grid.id, points, temperature, REACH * self.spacing], outputs=[self._rate],
            )  # fmt: skip
            conducted = self._coefficient * self._rate.numpy().astype(np.float64)
            self.enthalpy += seconds / steps * (conducted + gain(now))


def _lattice() -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (in spacings) and weights of the neighbours in a cubic lattice."""
    reach = int(np.ceil(REACH))
    axis = np.arange(-reach, reach + 1)
    square = (np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3) ** 2).sum(axis=1)
    square = square[(square > 0) & (square < REACH**2)]
    return square, 1 - square / REACH**2


def _second_moment(spacing: float) -> float:
    """Sum over the neighbours of weight x distance^2 / 6 in m2, which relates the pairwise exchange to a diffusivity.
    """
    square, weight = _lattice()
    return float((weight * square).sum()) * spacing**2 / 6


def _weight_sum() -> float:
    """Sum of the neighbours' weights."""
    return float(_lattice()[1].sum())
