"""Hot smoke in air, on a grid: buoyancy, advection that cannot blow up, no divergence (Stam, "Stable fluids", 1999)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates

# A ball that moves through the air: centre [3] and velocity [3] in world metres and m/s at a time in seconds.
Course = Callable[[float], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Box:
    """A cube of `cells`^3 cells: its lowest corner in world metres and its side in metres."""

    corner: tuple[float, float, float]
    side: float
    cells: int

    @property
    def cell(self) -> float:
        return self.side / self.cells

    def centres(self) -> np.ndarray:
        """World places of the cells' centres, float64 [3, n, n, n]."""
        along = (np.arange(self.cells) + 0.5) * self.cell
        return np.stack(np.meshgrid(*(c + along for c in self.corner), indexing="ij"))


class Air:
    """The state: velocity float32 [3, n, n, n] m/s at the centres, smoke and heat float32 [n, n, n] in 0..1.

    source: world place and radius in metres of a ball that gives off hot smoke. lift: m/s2 for fully hot smoke.
    cooling, thinning: 1/s. stir: m/s of random push in the source, from `random`.
    """

    def __init__(
        self,
        box: Box,
        source: tuple[np.ndarray, float],
        random: np.random.Generator,
        *,
        lift: float = 6.0,
        cooling: float = 0.7,
        thinning: float = 0.1,
        stir: float = 0.15,
    ) -> None:
        n = box.cells
        self.box, self.random = box, random
        self.lift, self.cooling, self.thinning, self.stir = lift, cooling, thinning, stir
        self.velocity = np.zeros((3, n, n, n), dtype=np.float32)
        self.smoke, self.heat = np.zeros((2, n, n, n), dtype=np.float32)
        self._centres = box.centres()
        self._index = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij")).astype(np.float32)
        self._source = self._inside(*source)
        wave = 2 * np.cos(np.pi * np.arange(n) / n)
        self._eigenvalue = (wave[:, None, None] + wave[:, None] + wave - 6).astype(np.float32)
        self._eigenvalue[0, 0, 0] = 1

    def _inside(self, centre: np.ndarray, radius: float) -> np.ndarray:
        return ((self._centres - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0) < radius**2

    def step(self, seconds: float, obstacle: tuple[np.ndarray, float, np.ndarray] | None = None) -> None:
        """One step; obstacle: centre, radius and velocity of a ball, which carries the air along and holds no smoke."""
        source = self._source
        self.smoke[source] = self.heat[source] = 1
        self.velocity[2] += seconds * self.lift * self.heat
        push = self.random.normal(0, self.stir, (3, int(source.sum())))
        self.velocity[:, source] += push.astype(np.float32)
        self._hold(obstacle)
        self.velocity = np.stack([self._carried(part, seconds) for part in self.velocity])
        self._project()
        self._hold(obstacle)
        self.smoke = self._carried(self.smoke, seconds) * np.float32(np.exp(-self.thinning * seconds))
        self.heat = self._carried(self.heat, seconds) * np.float32(np.exp(-self.cooling * seconds))

    def _hold(self, obstacle: tuple[np.ndarray, float, np.ndarray] | None) -> None:
        if obstacle is not None:
            centre, radius, velocity = obstacle
            solid = self._inside(centre, radius)
            self.velocity[:, solid] = np.reshape(velocity, (3, 1))
            self.smoke[solid] = 0

    def _carried(self, field: np.ndarray, seconds: float) -> np.ndarray:
        """The field as the air carries it: each cell takes what was where it comes from."""
        origin = self._index - np.float32(seconds / self.box.cell) * self.velocity
        return map_coordinates(field, origin, order=1, mode="nearest")

    def _project(self) -> None:
        """Takes away the part of the velocity that piles air up, by its potential (cosine transform)."""
        divergence = sum(np.gradient(self.velocity[axis], axis=axis) for axis in range(3))
        potential = idctn(dctn(divergence, type=2) / self._eigenvalue, type=2).astype(np.float32)
        self.velocity -= np.stack(np.gradient(potential))
