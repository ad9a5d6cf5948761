"""Smoke in front of a scene: opacity, brightness and compositing for each pixel."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates, maximum_filter

from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.smoke.air_grid import GridBox

SAMPLES = 40  # along a ray through the smoke
RAYS = 2048  # at once, so that the processor's cache holds their samples
FAINT = 1e-3  # density below which a cell is skipped
CLEAR = 0.05  # opacity up to which the surface behind counts as visible


@dataclass(frozen=True)
class SmokeLayer:
    """Smoke as the camera of a clip sees it: opacity and brightness, each float32 [T, H, W] in 0..1."""

    opacity: np.ndarray
    brightness: np.ndarray


@dataclass(frozen=True)
class SmokeVolume:
    """Smoke over time.

    box: the grid.
    density: float32 [T, n, n, n] in 0..1, at the cell centres.
    extinction: 1/m, at density 1.
    rgb: colour of the smoke in full light.
    shade: 1/m, attenuation of the light from above at density 1.
    """

    box: GridBox
    density: np.ndarray
    extinction: float
    rgb: tuple[float, float, float]
    shade: float = 3.0

    def layer(self, camera: Camera, depth: np.ndarray) -> SmokeLayer:
        """The smoke in front of surfaces at this depth, float64 [T, H, W] in metres, inf for none."""
        seen = [self.opacity_and_brightness(t, camera, depth[t]) for t in range(len(depth))]
        opacity, brightness = (np.stack(each) for each in zip(*seen, strict=True))
        return SmokeLayer(opacity, brightness)

    def opacity_and_brightness(self, t: int, camera: Camera, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Opacity and brightness of the smoke in frame t, each float32 [H, W] in 0..1.

        t: number of the frame.
        camera: of the clip.
        depth: float64 [H, W], metres along the optical axis to the surface behind, inf for none.
        """
        row, column = np.mgrid[: camera.height, : camera.width] + 0.5
        directions = camera.directions(t, np.stack([column.ravel(), row.ravel()], axis=1))
        origin = camera.origin(t) - np.array(self.box.corner)
        low, high = self._occupied_box(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            planes = np.stack([(low - origin) / directions, (high - origin) / directions])
        near = np.maximum(planes.min(axis=0).max(axis=1), 0.0)
        far = np.minimum(planes.max(axis=0).min(axis=1), depth.ravel())
        hit = np.flatnonzero(near < far)
        opacity, brightness = np.zeros((2, directions.shape[0]), dtype=np.float32)
        if len(hit):
            opacity[hit], brightness[hit] = self._ray_march(t, origin, directions[hit], near[hit], far[hit])
        return opacity.reshape(depth.shape), brightness.reshape(depth.shape)

    def _occupied_box(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Corners [3] of the bounding box of smoke in frame t, metres from the grid's lowest corner; equal if there is
        none.
        """
        held = np.argwhere(self.density[t] > FAINT)
        if not len(held):
            return np.zeros(3), np.zeros(3)
        # Density is interpolated between cell centres, so the box includes one more cell on each side.
        return (held.min(axis=0) - 0.5) * self.box.cell, (held.max(axis=0) + 1.5) * self.box.cell

    def _ray_march(
        self, t: int, origin: np.ndarray, directions: np.ndarray, near: np.ndarray, far: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Opacity and brightness along rays; places without smoke, of which most rays have many, are not sampled."""
        above = np.cumsum(self.density[t][:, :, ::-1], axis=2)[:, :, ::-1] * self.box.cell
        around = maximum_filter(self.density[t], 3, mode="constant") > FAINT
        share = (np.arange(SAMPLES) + 0.5) / SAMPLES
        opacity, brightness = np.zeros((2, len(directions)), dtype=np.float32)
        for start in range(0, len(directions), RAYS):
            some = slice(start, start + RAYS)
            distance = near[some, None] + (far - near)[some, None] * share
            places = (origin + directions[some, None] * distance[..., None]) / self.box.cell - 0.5
            i, j, k = np.clip(np.rint(places), 0, self.box.cells - 1).astype(np.int32).transpose(2, 0, 1)
            inside = around[i, j, k]
            coordinates = places[inside].T.astype(np.float32)
            density, light = np.zeros((2, *distance.shape), dtype=np.float32)
            density[inside] = map_coordinates(self.density[t], coordinates, order=1, mode="constant")
            light[inside] = np.exp(-self.shade * map_coordinates(above, coordinates, order=1, mode="nearest"))
            step = np.linalg.norm(directions[some], axis=1) * (far - near)[some] / SAMPLES
            taken = 1 - np.exp(-self.extinction * density * step[:, None])
            passed = np.cumprod(1 - taken, axis=1)
            weight = taken * np.concatenate([np.ones_like(passed[:, :1]), passed[:, :-1]], axis=1)
            opacity[some] = 1 - passed[:, -1]
            brightness[some] = (weight * light).sum(axis=1) / np.maximum(opacity[some], 1e-6)
        return opacity, brightness

    def composite(self, picture: np.ndarray, opacity: np.ndarray, brightness: np.ndarray) -> np.ndarray:
        """Blends the smoke over a picture, uint8 [H, W, 3].

        picture: uint8 [H, W, 3], the scene behind.
        opacity, brightness: float32 [H, W] in 0..1, from `opacity_and_brightness`.
        """
        colour = (0.35 + 0.65 * brightness)[..., None] * np.array(self.rgb) * 255
        return (picture * (1 - opacity[..., None]) + colour * opacity[..., None] + 0.5).astype(np.uint8)
