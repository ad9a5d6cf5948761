"""Smoke in front of a scene: opacity, brightness and compositing for each pixel."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates, maximum_filter

from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.smoke.air_grid import GridBox

SLICES = 64  # of the smoke, across the optical axis
RAYS = 2048  # at once, so that the processor's cache holds their samples
RAYS_PER_CELL = 3.0  # least number of rays across a cell of the grid, where it is farthest
FAINT = 1e-3  # density below which a cell is skipped
NEAREST = 0.05  # metres from the camera, below which the smoke may be anywhere in the image
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

        Rays, RAYS_PER_CELL of them and no more than one a pixel across a cell of the grid, are followed through slices
        of equal depth; a pixel interpolates between the four rays around it what they have met up to its own depth.

        t: number of the frame.
        camera: of the clip.
        depth: float64 [H, W], metres along the optical axis to the surface behind, inf for none.
        """
        opacity, brightness = np.zeros((2, *depth.shape), dtype=np.float32)
        low, high = self._occupied_box(t)
        near, far, (left, top, right, bottom) = self._bounds(t, camera, low, high)
        if near >= far or right <= left or bottom <= top:
            return opacity, brightness
        across = self.box.cell * float(camera.intrinsics[t, :2, :2].max()) / far
        stride = max(1, int(across / RAYS_PER_CELL))
        columns, rows = ((end - start - 1) // stride + 2 for start, end in ((left, right), (top, bottom)))
        row, column = (axis.ravel() * stride + 0.5 for axis in np.mgrid[:rows, :columns])
        directions = camera.directions(t, np.stack([column + left, row + top], axis=1))
        met = self._ray_march(t, camera.origin(t) - np.array(self.box.corner), directions, near, far)
        met = met.reshape(2, rows, columns, SLICES + 1)
        i, j = np.mgrid[: bottom - top, : right - left]
        # Between four rays that meet no smoke there is none.
        smoky = met[0, ..., -1] > 0
        smoky = smoky[:-1, :-1] | smoky[1:, :-1] | smoky[:-1, 1:] | smoky[1:, 1:]
        some = np.nonzero(smoky[i // stride, j // stride])
        slices = np.clip((depth[top:bottom, left:right][some] - near) * (SLICES / (far - near)), 0, SLICES)
        at = np.stack([some[0] / stride, some[1] / stride, slices]).astype(np.float32)
        seen, light = (map_coordinates(each, at, order=1, mode="nearest") for each in met)
        place = (some[0] + top, some[1] + left)
        opacity[place], brightness[place] = seen, light / np.maximum(seen, 1e-6)
        return opacity, brightness

    def _bounds(
        self, t: int, camera: Camera, low: np.ndarray, high: np.ndarray
    ) -> tuple[float, float, tuple[int, int, int, int]]:
        """Least and largest depth of a box in metres, and its bounds in the image: left, top, right, bottom."""
        ends = np.stack([low, high])
        corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(-1, 3)
        points = np.take_along_axis(ends, corners, axis=0) + np.array(self.box.corner)
        with np.errstate(divide="ignore", invalid="ignore"):
            pixel, depth = camera.project(t, points)
        near, far = max(float(depth.min()), 0.0), float(depth.max())
        if depth.min() < NEAREST:
            return near, far, (0, 0, camera.width, camera.height)
        size = [camera.width, camera.height]
        first = np.clip(np.floor(pixel.min(axis=0)), 0, size).astype(int)
        last = np.clip(np.ceil(pixel.max(axis=0)), 0, size).astype(int)
        return near, far, (int(first[0]), int(first[1]), int(last[0]), int(last[1]))

    def _occupied_box(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Corners [3] of the bounding box of smoke in frame t, metres from the grid's lowest corner; equal if there is
        none.
        """
        held = np.argwhere(self.density[t] > FAINT)
        if not len(held):
            return np.zeros(3), np.zeros(3)
        # Density is interpolated between cell centres, so the box includes one more cell on each side.
        return (held.min(axis=0) - 0.5) * self.box.cell, (held.max(axis=0) + 1.5) * self.box.cell

    def _ray_march(self, t: int, origin: np.ndarray, directions: np.ndarray, near: float, far: float) -> np.ndarray:
        """Opacity and light up to the end of each slice along rays, float32 [2, N, SLICES + 1]; places without smoke,
        of which most rays have many, are not sampled.

        origin: [3], metres from the grid's lowest corner. directions: [N, 3], of unit depth. near, far: depths.
        """
        above = np.cumsum(self.density[t][:, :, ::-1], axis=2)[:, :, ::-1] * self.box.cell
        around = maximum_filter(self.density[t], 3, mode="constant") > FAINT
        thick = (far - near) / SLICES
        distance = near + thick * (np.arange(SLICES) + 0.5)
        met = np.zeros((2, len(directions), SLICES + 1), dtype=np.float32)
        for start in range(0, len(directions), RAYS):
            some = slice(start, start + RAYS)
            places = (origin + directions[some, None] * distance[:, None]) / self.box.cell - 0.5
            cell = np.rint(places).astype(np.int32)
            held = ((cell >= 0) & (cell < self.box.cells)).all(axis=2)
            i, j, k = np.clip(cell, 0, self.box.cells - 1).transpose(2, 0, 1)
            inside = held & around[i, j, k]
            coordinates = places[inside].T.astype(np.float32)
            density, light = np.zeros((2, *inside.shape), dtype=np.float32)
            density[inside] = map_coordinates(self.density[t], coordinates, order=1, mode="constant")
            light[inside] = np.exp(-self.shade * map_coordinates(above, coordinates, order=1, mode="nearest"))
            step = (np.linalg.norm(directions[some], axis=1) * thick).astype(np.float32)
            taken = 1 - np.exp(-np.float32(self.extinction) * density * step[:, None])
            passed = np.cumprod(1 - taken, axis=1)
            weight = taken * np.concatenate([np.ones_like(passed[:, :1]), passed[:, :-1]], axis=1)
            met[0, some, 1:] = 1 - passed
            met[1, some, 1:] = (weight * light).cumsum(axis=1)
        return met

    def composite(self, picture: np.ndarray, opacity: np.ndarray, brightness: np.ndarray) -> np.ndarray:
        """Blends the smoke over a picture, uint8 [H, W, 3].

        picture: uint8 [H, W, 3], the scene behind.
        opacity, brightness: float32 [H, W] in 0..1, from `opacity_and_brightness`.
        """
        colour = (0.35 + 0.65 * brightness)[..., None] * np.array(self.rgb) * 255
        return (picture * (1 - opacity[..., None]) + colour * opacity[..., None] + 0.5).astype(np.uint8)
