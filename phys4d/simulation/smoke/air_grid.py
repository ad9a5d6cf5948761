"""Hot smoke in air on a grid: buoyancy, semi-Lagrangian advection, projection (Stam, "Stable fluids", 1999)."""

from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates


@dataclass(frozen=True)
class GridBox:
    """A cube of `cells`^3 grid cells.

    corner: [3], world metres, lowest corner.
    side: metres.
    cells: cells along each axis.
    """

    corner: tuple[float, float, float]
    side: float
    cells: int

    @property
    def cell(self) -> float:
        return self.side / self.cells

    def centres(self) -> np.ndarray:
        """World positions of the cell centres, float64 [3, n, n, n]."""
        along = (np.arange(self.cells) + 0.5) * self.cell
        return np.stack(np.meshgrid(*(c + along for c in self.corner), indexing="ij"))


class AirGrid:
    """State of the air: velocity float32 [3, n, n, n] in m/s, smoke and heat float32 [n, n, n] in 0..1, at cell
    centres.

    box: the grid.
    source: centre [3] in world metres and radius in metres of a ball that emits hot smoke.
    rng: random generator of the velocity noise.
    lift: m/s2, buoyant acceleration of fully hot smoke.
    heat_decay: 1/s, decay rate of heat.
    smoke_decay: 1/s, decay rate of smoke.
    noise_speed: m/s, standard deviation of the velocity noise in the source.
    """

    def __init__(
        self,
        box: GridBox,
        source: tuple[np.ndarray, float],
        rng: np.random.Generator,
        *,
        lift: float = 6.0,
        heat_decay: float = 0.7,
        smoke_decay: float = 0.1,
        noise_speed: float = 0.15,
    ) -> None:
        n = box.cells
        self.box, self.rng = box, rng
        self.lift, self.heat_decay, self.smoke_decay, self.noise_speed = lift, heat_decay, smoke_decay, noise_speed
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
        """Advances by one step of `seconds`.

        obstacle: centre [3] in metres, radius in metres and velocity [3] in m/s of a ball that moves the air and holds
            no smoke.
        """
        source = self._source
        self.smoke[source] = self.heat[source] = 1
        self.velocity[2] += seconds * self.lift * self.heat
        push = self.rng.normal(0, self.noise_speed, (3, int(source.sum())))
        self.velocity[:, source] += push.astype(np.float32)
        self._hold(obstacle)
        self.velocity = np.stack([self._carried(part, seconds) for part in self.velocity])
        self._project()
        self._hold(obstacle)
        self.smoke = self._carried(self.smoke, seconds) * np.float32(np.exp(-self.smoke_decay * seconds))
        self.heat = self._carried(self.heat, seconds) * np.float32(np.exp(-self.heat_decay * seconds))

    def _hold(self, obstacle: tuple[np.ndarray, float, np.ndarray] | None) -> None:
        if obstacle is not None:
            centre, radius, velocity = obstacle
            solid = self._inside(centre, radius)
            self.velocity[:, solid] = np.reshape(velocity, (3, 1))
            self.smoke[solid] = 0

    def _carried(self, field: np.ndarray, seconds: float) -> np.ndarray:
        """Semi-Lagrangian advection: each cell takes the value at the position that its air comes from."""
        origin = self._index - np.float32(seconds / self.box.cell) * self.velocity
        return map_coordinates(field, origin, order=1, mode="nearest")

    def _project(self) -> None:
        """Removes the divergence of the velocity: solves for a potential by cosine transform and subtracts its
        gradient.
        """
        divergence = sum(np.gradient(self.velocity[axis], axis=axis) for axis in range(3))
        potential = idctn(dctn(divergence, type=2) / self._eigenvalue, type=2).astype(np.float32)
        self.velocity -= np.stack(np.gradient(potential))
