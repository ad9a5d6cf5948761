"""What smoke in front of the scene does to each pixel: how much of it is covered, and with which colour."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from phys4d.simulation.gas.air import Box
from phys4d.simulation.stage.camera import Camera

SAMPLES = 40  # along a ray through the smoke
FAINT = 1e-3  # density that is not looked at
CLEAR = 0.05  # opacity up to which what is behind counts as seen


@dataclass(frozen=True)
class Volume:
    """Smoke over time. density: float32 [T, n, n, n] in 0..1 at the centres of the box's cells.

    extinction: 1/m of the densest. rgb: its colour in full light. shade: share of the light that the densest takes
    away in a metre, from above.
    """

    box: Box
    density: np.ndarray
    extinction: float
    rgb: tuple[float, float, float]
    shade: float = 3.0

    def seen(self, t: int, camera: Camera, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Opacity float32 [H, W] in 0..1 and brightness float32 [H, W] in 0..1 of the smoke in frame t.

        depth: float64 [H, W] metres along the optical axis to the surface behind, inf for none.
        """
        row, column = np.mgrid[: camera.height, : camera.width] + 0.5
        directions = camera.directions(t, np.stack([column.ravel(), row.ravel()], axis=1))
        origin = camera.origin(t) - np.array(self.box.corner)
        low, high = self._filled(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            planes = np.stack([(low - origin) / directions, (high - origin) / directions])
        near = np.maximum(planes.min(axis=0).max(axis=1), 0.0)
        far = np.minimum(planes.max(axis=0).min(axis=1), depth.ravel())
        hit = np.flatnonzero(near < far)
        opacity, brightness = np.zeros((2, directions.shape[0]), dtype=np.float32)
        if len(hit):
            opacity[hit], brightness[hit] = self._marched(t, origin, directions[hit], near[hit], far[hit])
        return opacity.reshape(depth.shape), brightness.reshape(depth.shape)

    def _filled(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Corners [3] of the part of the box that holds smoke, metres from its lowest corner; equal for none."""
        held = np.argwhere(self.density[t] > FAINT)
        if not len(held):
            return np.zeros(3), np.zeros(3)
        # Between the centres of cells density is interpolated: one cell more on each side.
        return (held.min(axis=0) - 0.5) * self.box.cell, (held.max(axis=0) + 1.5) * self.box.cell

    def _marched(
        self, t: int, origin: np.ndarray, directions: np.ndarray, near: np.ndarray, far: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        share = (np.arange(SAMPLES) + 0.5) / SAMPLES
        distance = near[:, None] + (far - near)[:, None] * share
        places = (origin + directions[:, None] * distance[..., None]) / self.box.cell - 0.5
        coordinates = np.moveaxis(places, -1, 0).astype(np.float32)
        density = map_coordinates(self.density[t], coordinates, order=1, mode="constant")
        above = np.cumsum(self.density[t][:, :, ::-1], axis=2)[:, :, ::-1] * self.box.cell
        light = np.exp(-self.shade * map_coordinates(above, coordinates, order=1, mode="nearest"))
        step = np.linalg.norm(directions, axis=1) * (far - near) / SAMPLES
        taken = 1 - np.exp(-self.extinction * density * step[:, None])
        passed = np.cumprod(1 - taken, axis=1)
        weight = taken * np.concatenate([np.ones_like(passed[:, :1]), passed[:, :-1]], axis=1)
        opacity = 1 - passed[:, -1]
        return opacity, (weight * light).sum(axis=1) / np.maximum(opacity, 1e-6)

    def over(self, picture: np.ndarray, opacity: np.ndarray, brightness: np.ndarray) -> np.ndarray:
        """The picture uint8 [H, W, 3] behind the smoke."""
        colour = (0.35 + 0.65 * brightness)[..., None] * np.array(self.rgb) * 255
        return (picture * (1 - opacity[..., None]) + colour * opacity[..., None] + 0.5).astype(np.uint8)
