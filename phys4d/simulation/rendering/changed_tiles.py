"""The tiles of a static camera's image that change from frame to frame: those of what moves, and of what its shadow
reaches.

A tile is drawn again if an instance that has changed since the frame before is, or was, drawn there or in the part of
the shadow map that is read for the tile. All are when the light of what glows has changed.
"""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rendering.lamps import Lamps
from phys4d.simulation.rendering.shadow import SHADOW_DISTANCE, SHADOW_HALF_WIDTH, to_shadow
from phys4d.simulation.scene import WALL, Light
from phys4d.simulation.scenery.camera import Camera

TILE = 8  # pixels
CELLS = 256  # of the shadow map, along each axis
EDGE = 3.0  # pixels around a face that samples, derivatives and rounded vertices may reach
TEXELS = 6  # of the shadow map around a place: offsets off the surface, comparisons of neighbours, rounding
NEAREST = 0.1  # metres from the camera, below which something may cover the whole image
FEW, DIVIDED = 200, 5  # faces of an instance of which each is divided into 25
SMALL = 192 * 192  # pixels: to draw a smaller picture takes less time than to find the tiles that change
PARTS = 4096  # of what changes, each of which is bounded by a box


@dataclass(frozen=True)
class _Boxes:
    """Boxes of whole numbers: first and last row and column, both inside, int [N]."""

    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @staticmethod
    def around(low: np.ndarray, high: np.ndarray, unit: float, rows: int, columns: int) -> "_Boxes":
        """Those of points (x, y) from `low` [N, 2] to `high` in units of `unit`, cut off at a grid of rows and columns;
        empty where they lie outside. NaN bounds nothing and stands for everything.
        """
        low, high = (np.where(np.isnan(end), far, end) for end, far in ((low, -np.inf), (high, np.inf)))
        ends = [np.clip(np.floor(end / unit), -1, limit) for end in (low, high) for limit in ([columns, rows],)]
        left, top = ends[0].astype(np.int64).T
        right, bottom = ends[1].astype(np.int64).T
        return _Boxes(np.maximum(top, 0), np.minimum(bottom, rows - 1), np.maximum(left, 0),
                      np.minimum(right, columns - 1))  # fmt: skip

    def chosen(self, which: np.ndarray) -> "_Boxes":
        return _Boxes(self.top[which], self.bottom[which], self.left[which], self.right[which])

    def covered(self, rows: int, columns: int) -> np.ndarray:
        """Bool [rows, columns]: in one of the boxes."""
        full = (self.bottom >= self.top) & (self.right >= self.left)
        top, bottom, left, right = (each[full] for each in (self.top, self.bottom, self.left, self.right))
        steps = np.zeros((rows + 1) * (columns + 1), dtype=np.int64)
        for row, column, sign in ((top, left, 1), (top, right + 1, -1), (bottom + 1, left, -1),
                                  (bottom + 1, right + 1, 1)):  # fmt: skip
            steps += sign * np.bincount(row * (columns + 1) + column, minlength=len(steps))
        return steps.reshape(rows + 1, columns + 1).cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0

    def meet(self, grid: np.ndarray) -> np.ndarray:
        """Bool [N]: one of the box's cells is true in `grid`, bool [rows, columns]."""
        sums = np.zeros((grid.shape[0] + 1, grid.shape[1] + 1), dtype=np.int64)
        sums[1:, 1:] = grid.cumsum(axis=0).cumsum(axis=1)
        full = (self.bottom >= self.top) & (self.right >= self.left)
        top, bottom = self.top, np.maximum(self.bottom + 1, self.top)
        left, right = self.left, np.maximum(self.right + 1, self.left)
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return full & (inside > 0)


class ChangedTiles:
    """Which tiles of a frame may differ from the frame before, for a static camera.

    meshes, camera, light: of the clip; floor, walls and ceiling are the planes of a convex room around the camera, and
    no two instances share a vertex.
    shadow_size: of the shadow map, texels.
    lamps: of what glows, whose light reaches everything; None for none.

    The attribute `whole` is true if every frame may differ everywhere.
    """

    def __init__(
        self, meshes: MeshSequence, camera: Camera, light: Light, shadow_size: int, lamps: Lamps | None
    ) -> None:
        self.meshes, self.camera, self._lamps = meshes, camera, lamps
        self.rows, self.columns = -(-camera.height // TILE), -(-camera.width // TILE)
        self.whole = not camera.is_static() or camera.height * camera.width < SMALL
        if self.whole:
            return
        sun = -np.array(light.direction) / np.linalg.norm(light.direction)
        self._to_map = to_shadow(sun, np.array(light.focus)) / 2
        self._to_map[:3, 3] += 0.5
        self._margin = TEXELS / shadow_size
        self._softness = light.softness * SHADOW_DISTANCE / SHADOW_HALF_WIDTH
        # The nearest thing to the sun, from which shadows fall the longest way.
        caster = np.unique(meshes.faces[meshes.instance > WALL])
        heights = meshes.vertices[:, caster] @ self._to_map[2, :3] + self._to_map[2, 3]
        self._first_depth = float(heights.min(initial=1.0))
        moves = (meshes.vertices != meshes.vertices[0]).any(axis=(0, 2))
        if meshes.colour.ndim == 3:
            moves |= (meshes.colour != meshes.colour[0]).any(axis=(0, 2))
        changing = np.unique(meshes.instance[moves[meshes.faces].any(axis=1)])
        self._instances = [_Parts(meshes.faces[meshes.instance == number]) for number in changing]
        at_rest = ~np.isin(meshes.instance, changing)
        self._receiving, self._read = self._receivers(meshes.faces[at_rest & (meshes.instance > WALL)])

    def tiles(self, t: int) -> np.ndarray:
        """Bool [rows, columns]: the tiles of frame t that may differ from frame t - 1; all of the first frame's."""
        if self.whole or t == 0 or (self._lamps is not None and self._lamps.changes(t)):
            return np.ones((self.rows, self.columns), dtype=bool)
        tiles = np.zeros((self.rows, self.columns), dtype=bool)
        cast = np.zeros((CELLS, CELLS), dtype=bool)
        still: list[_Parts] = []
        for parts in self._instances:
            if not parts.changes(self.meshes, t):
                still.append(parts)
                continue
            for points in (parts.points(self.meshes.vertices[when]) for when in (t - 1, t)):
                tiles |= self._image_boxes(points, parts.starts).covered(self.rows, self.columns)
                cast |= self._cells_of(points, parts.starts, 0.0).covered(CELLS, CELLS)
        if not cast.any():
            return tiles
        tiles |= self._receiving.chosen(self._read.meet(cast)).covered(self.rows, self.columns)
        for parts in still:  # shadows fall on what has moved before, too
            points = parts.points(self.meshes.vertices[t])
            deepest = np.maximum.reduceat(self._in_map(points)[:, 2], parts.starts)
            reached = self._cells_of(points, parts.starts, self._reach(deepest)).meet(cast)
            tiles |= self._image_boxes(points, parts.starts).chosen(reached).covered(self.rows, self.columns)
        return tiles

    def _cells_of(self, points: np.ndarray, starts: np.ndarray, margin: np.ndarray | float) -> _Boxes:
        """Cells of the shadow map around runs of vertices [N, 3]."""
        place = self._in_map(points)[:, :2]
        return self._cells(np.minimum.reduceat(place, starts), np.maximum.reduceat(place, starts), margin)

    def _image_boxes(self, points: np.ndarray, starts: np.ndarray) -> _Boxes:
        """Tiles that runs of vertices [N, 3] may reach in the image."""
        with np.errstate(divide="ignore", invalid="ignore"):
            pixel, depth = self.camera.project(0, points)
        low, high = np.minimum.reduceat(pixel, starts) - EDGE, np.maximum.reduceat(pixel, starts) + EDGE
        near = np.minimum.reduceat(depth, starts) < NEAREST
        low[near], high[near] = -np.inf, np.inf
        return _Boxes.around(low, high, TILE, self.rows, self.columns)

    def _in_map(self, points: np.ndarray) -> np.ndarray:
        """Places in the shadow map and depths there, [N, 3] in 0..1, of points [N, 3]."""
        return points @ self._to_map[:3, :3].T + self._to_map[:3, 3]

    def _cells(self, low: np.ndarray, high: np.ndarray, margin: np.ndarray | float) -> _Boxes:
        """Cells of the shadow map from `low` [N, 2] to `high`, widened by `margin`, a number for each or for all."""
        wide = np.reshape(margin, (-1, 1)) + self._margin
        return _Boxes.around(low - wide, high + wide, 1 / CELLS, CELLS, CELLS)

    def _reach(self, depth: np.ndarray) -> np.ndarray:
        """How far from a place at this depth the shaders read the shadow map, see `shaders`; all in 0..1."""
        searched = 0.06 * self._softness
        return np.maximum(searched, 0.5 * self._softness * (depth + searched - self._first_depth))

    def _receivers(self, faces: np.ndarray) -> tuple[_Boxes, _Boxes]:
        """What shadows may fall on: boxes of tiles, and the cells of the shadow map that are read for them."""
        image, low, high, depth = self._room_receivers()
        if len(faces):
            points, starts = self.meshes.vertices[0, faces.ravel()], 3 * np.arange(len(faces))
            place = self._in_map(points)
            mine = self._image_boxes(points, starts)
            image = _Boxes(*(np.concatenate(pair) for pair in zip(_sides(image), _sides(mine), strict=True)))
            low = np.concatenate([low, np.minimum.reduceat(place[:, :2], starts)])
            high = np.concatenate([high, np.maximum.reduceat(place[:, :2], starts)])
            depth = np.concatenate([depth, np.maximum.reduceat(place[:, 2], starts)])
        return image, self._cells(low, high, self._reach(depth))

    def _room_receivers(self) -> tuple[_Boxes, np.ndarray, np.ndarray, np.ndarray]:
        """One receiver for each tile and each plane of the room that it shows: its tile, bounds in the shadow map, and
        largest depth there.

        On a plane the tile is the quadrilateral between what is seen at its corners.
        """
        height, width = self.rows + 1, self.columns + 1
        row, column = np.mgrid[:height, :width] * float(TILE)
        directions = self.camera.directions(0, np.stack([column.ravel(), row.ravel()], axis=1))
        eye, planes = self.camera.origin(0), _planes(self.meshes)
        with np.errstate(divide="ignore", invalid="ignore"):
            way = np.array([(offset - eye @ normal) / (directions @ normal) for normal, offset in planes])
        way = np.where(way > 0, way, np.inf).reshape(len(planes), height, width)
        seen = way == way.min(axis=0, initial=np.inf)
        row, column = (axis.ravel() for axis in np.mgrid[: self.rows, : self.columns])
        found: list[tuple[np.ndarray, ...]] = []
        for number in range(len(planes)):
            shows = _around(seen[number] & np.isfinite(way[number]))
            far = np.where(np.isfinite(way[number]), way[number], np.nan)
            points = eye + directions.reshape(height, width, 3) * far[..., None]
            place = self._in_map(points.reshape(-1, 3)).reshape(height, width, 3)
            corners = np.stack([place[down : self.rows + down, right : self.columns + right]
                                for down in (0, 1) for right in (0, 1)])  # fmt: skip
            low, high = corners.min(axis=0).reshape(-1, 3), corners.max(axis=0).reshape(-1, 3)
            # Where a corner does not see the plane nothing bounds what the tile shows of it.
            bounded = np.isfinite(corners).all(axis=(0, 3)).ravel()
            low[~bounded], high[~bounded] = np.nan, np.nan
            depth = np.where(bounded, high[:, 2], 1.0)
            some = shows.ravel()
            found.append((row[some], column[some], low[some, :2], high[some, :2], depth[some]))
        if not found:
            none = np.zeros(0, dtype=np.int64)
            return _Boxes(none, none, none, none), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)
        row, column, low, high, depth = (np.concatenate(each) for each in zip(*found, strict=True))
        return _Boxes(row, row, column, column), low, high, depth


def _sides(boxes: _Boxes) -> tuple[np.ndarray, ...]:
    return boxes.top, boxes.bottom, boxes.left, boxes.right


def _planes(meshes: MeshSequence) -> list[tuple[np.ndarray, float]]:
    """Normal [3] and offset of each plane of floor, walls and ceiling."""
    found: dict[tuple[float, ...], tuple[np.ndarray, float]] = {}
    for a, b, c in meshes.vertices[0, meshes.faces[meshes.instance <= WALL]]:
        normal = np.cross(b - a, c - a)
        if (length := np.linalg.norm(normal)) > 0:
            normal = normal / length
            offset = float(normal @ a)
            found[tuple(np.round([*normal, offset], 9) + 0.0)] = normal, offset
    return list(found.values())


def _around(corner: np.ndarray) -> np.ndarray:
    """For bool [rows + 1, columns + 1] at the corners of tiles: a corner of the tile or of a neighbour is true."""
    padded = np.pad(corner, 1)
    rows, columns = (side - 1 for side in corner.shape)
    shifts = [padded[i : i + rows, j : j + columns] for i in range(4) for j in range(4)]
    return np.logical_or.reduce(shifts)


class _Parts:
    """The faces of an instance in at most PARTS runs; the faces of an instance of few are divided, since the box around
    a large slanted triangle holds much else.

    faces: int [F, 3], of the instance. starts: where the points of each run start.
    """

    def __init__(self, faces: np.ndarray) -> None:
        self._all = np.unique(faces)
        self._weights: np.ndarray | None = None
        at_once = max(1, -(-len(faces) // PARTS))
        if at_once > 1:
            runs = [np.unique(faces[start : start + at_once]) for start in range(0, len(faces), at_once)]
            self._vertices, self.starts = np.concatenate(runs), np.cumsum([0, *(len(run) for run in runs[:-1])])
            return
        self._vertices = faces.ravel()
        if len(faces) <= FEW:
            self._weights = _divided(DIVIDED)
        self.starts = 3 * np.arange(len(faces) * (1 if self._weights is None else len(self._weights) // 3))

    def points(self, vertices: np.ndarray) -> np.ndarray:
        """The points [N, 3] of all runs for vertices [V, 3] of a frame."""
        found = vertices[self._vertices]
        return found if self._weights is None else (self._weights @ found.reshape(-1, 3, 3)).reshape(-1, 3)

    def changes(self, meshes: MeshSequence, t: int) -> bool:
        """Whether the instance has changed from frame t - 1 to t."""
        arrays = [meshes.vertices] + [meshes.colour] * (meshes.colour.ndim == 3)
        return any(not np.array_equal(array[t - 1, self._all], array[t, self._all]) for array in arrays)


def _divided(number: int) -> np.ndarray:
    """Barycentric coordinates [3 * number**2, 3] of the corners of the triangles into which a triangle is divided."""
    found = []
    for i in range(number):
        for j in range(number - i):
            found += [(i, j), (i + 1, j), (i, j + 1)]
            if i + j < number - 1:
                found += [(i + 1, j + 1), (i + 1, j), (i, j + 1)]
    u, v = np.array(found).T / number
    return np.stack([1 - u - v, u, v], axis=1)
