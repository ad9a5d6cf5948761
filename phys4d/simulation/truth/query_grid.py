"""Places in an image, sorted so that those which a face may cover are found without looking at the others."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.projected_faces import ProjectedFaces
from phys4d.simulation.truth.rays import dot

TILE = 16  # pixels
LARGE = 4 * TILE  # pixels, longest side of a face above which tiles are tested before places
AT_ONCE = 1 << 20  # pairs of face and place
SLACK = 1e-7  # relative; pairs within it are decided by `rays.intersect`


class QueryGrid:
    """Places [N] of an image, each with the depth up to which faces are of interest.

    pixel: float64 [N, 2], pixels, inside the image.
    depth: float64 [N], metres; inf for any depth.
    camera: of the clip.
    t: number of the frame.
    """

    def __init__(self, pixel: np.ndarray, depth: np.ndarray, camera: Camera, t: int) -> None:
        self.height, self.width = height, width = camera.height, camera.width
        self._scale, self._centre = camera.intrinsics[t, [0, 1], [0, 1]], camera.intrinsics[t, :2, 2]
        nearest = 1 / depth
        column = np.minimum(pixel[:, 0].astype(np.int64), width - 1)
        row = np.minimum(pixel[:, 1].astype(np.int64), height - 1)
        cell = row * width + column
        self._order = np.argsort(cell, kind="stable")
        self._start = np.searchsorted(cell[self._order], np.arange(height * width + 1))
        self._pixel, self._nearest = pixel, nearest
        self._tiles_across = -(-width // TILE)
        tiles = self._tiles_across * -(-height // TILE)
        tile = row // TILE * self._tiles_across + column // TILE
        self._by_tile = np.argsort(tile, kind="stable")
        self._tile_start = np.searchsorted(tile[self._by_tile], np.arange(tiles + 1))
        self._tile_nearest = np.full(tiles, np.inf)
        np.minimum.at(self._tile_nearest, tile, nearest)

    def pairs(self, faces: ProjectedFaces) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (number in `faces`, number of the place), int [M] each, in blocks: all pairs whose face covers the
        place no farther than the place's depth, and pairs that differ from such by rounding.
        """
        large = (faces.high - faces.low).max(axis=1) > LARGE
        for number, place in chain(self._small(faces, np.nonzero(~large)[0]), self._large(faces, np.nonzero(large)[0])):
            near = self._near(faces, number, place)
            yield number[near], place[near]

    def _near(self, faces: ProjectedFaces, number: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Numbers of the pairs that are hits up to SLACK."""
        pixel, low, high = self._pixel[place], faces.low[number], faces.high[number]
        kept = np.nonzero(((pixel >= low) & (pixel <= high)).all(axis=1))[0]
        number, place = number[kept], place[kept]
        direction = self._directions(self._pixel[place])
        inverse = dot(faces.inverse[number], direction)
        closer = np.nonzero(inverse * (1 + SLACK) >= self._nearest[place])[0]
        kept, inverse = kept[closer], inverse[closer]
        shares = dot(faces.edges[number[closer]], direction[closer, None])
        return kept[(shares >= -SLACK * np.abs(inverse)[:, None]).all(axis=1)]

    def _small(self, faces: ProjectedFaces, number: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of small faces and the places in the cells of their bounds."""
        first = np.maximum(np.floor(faces.low[number]), 0).astype(np.int64)
        last = np.minimum(np.floor(faces.high[number]), [self.width - 1, self.height - 1]).astype(np.int64)
        whose, step = _expanded(last[:, 1] - first[:, 1] + 1)
        line = (first[whose, 1] + step) * self.width
        begin, end = self._start[line + first[whose, 0]], self._start[line + last[whose, 0] + 1]
        for some in _blocks(end - begin):
            pair, step = _expanded((end - begin)[some])
            yield number[whose[some]][pair], self._order[begin[some][pair] + step]

    def _large(self, faces: ProjectedFaces, number: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of large faces and the places of tiles in which they may be near enough."""
        for face in number:
            tiles = self._tiles_of(faces, face)
            for some in _blocks((self._tile_start[tiles + 1] - self._tile_start[tiles])):
                begin = self._tile_start[tiles[some]]
                pair, step = _expanded(self._tile_start[tiles[some] + 1] - begin)
                place = self._by_tile[begin[pair] + step]
                yield np.full(len(place), face), place

    def _tiles_of(self, faces: ProjectedFaces, face: int) -> np.ndarray:
        """Tiles with a corner in which the face is near enough and not outside one of its edges.

        All of these are linear in the image, hence largest in a corner.
        """
        first = np.maximum(faces.low[face] // TILE, 0).astype(np.int64)
        last = np.minimum(faces.high[face], [self.width - 1, self.height - 1]).astype(np.int64) // TILE
        row, column = (axis.ravel() for axis in np.mgrid[first[1] : last[1] + 1, first[0] : last[0] + 1])
        tile = row * self._tiles_across + column
        tile, row, column = (each[self._tile_start[tile + 1] > self._tile_start[tile]] for each in (tile, row, column))
        corners = [self._directions(TILE * np.stack([column + right, row + down], axis=1)) for down in (0, 1) for right in (0, 1)]
        inverse = np.max([corner @ faces.inverse[face] for corner in corners], axis=0)
        shares = np.max([corner @ faces.edges[face].T for corner in corners], axis=0)
        scale = np.abs(faces.edges[face]).sum()
        near = (inverse + SLACK * scale >= self._tile_nearest[tile]) & (shares >= -SLACK * scale).all(axis=1)
        return tile[near]

    def _directions(self, pixel: np.ndarray) -> np.ndarray:
        """Directions [M, 3] of unit depth in the camera's axes through pixel coordinates [M, 2]."""
        direction = np.ones((len(pixel), 3))
        direction[:, :2] = (pixel - self._centre) / self._scale
        return direction


def _expanded(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts [n]: 0 repeated counts[0] times, 1 repeated counts[1] times, ...; and the number within each run."""
    whose = np.repeat(np.arange(len(counts)), counts)
    return whose, np.arange(len(whose)) - np.repeat(np.cumsum(counts) - counts, counts)


def _blocks(counts: np.ndarray) -> Iterator[slice]:
    """Slices of counts [n] whose sums are about AT_ONCE."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        end = int(np.searchsorted(total, (total[start - 1] if start else 0) + AT_ONCE, side="right"))
        yield slice(start, max(end, start + 1))
        start = max(end, start + 1)
