"""Places in an image, sorted so that those which a face may cover are found without looking at the others."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.projected_faces import NEAREST, ProjectedFaces
from phys4d.simulation.truth.rays import dot

TILE = 16  # pixels
LARGE = 4 * TILE  # pixels, longest side of a face above which tiles are tested before places
AT_ONCE = 1 << 20  # pairs of face and place
INSIDE = 1e-9  # tolerance in barycentric coordinates for a hit outside its triangle
EQUAL = 1e-12  # relative difference of depths below which two faces are equally near, as on their common edge
SLACK = 1e-7  # relative, of what a tile's corners decide


class QueryGrid:
    """Places [N] of an image, each with a depth beyond which no face counts.

    pixel: float64 [N, 2], pixels, inside the image.
    inverse: float64 [N], one over that depth, 1/metre; 0 for any depth.
    face: int [N], number of the face at that depth, -1 for none.
    camera: of the clip.
    t: number of the frame.
    """

    def __init__(self, pixel: np.ndarray, inverse: np.ndarray, face: np.ndarray, camera: Camera, t: int) -> None:
        self.height, self.width = height, width = camera.height, camera.width
        self._scale, self._centre = camera.intrinsics[t, [0, 1], [0, 1]], camera.intrinsics[t, :2, 2]
        column = np.minimum(pixel[:, 0].astype(np.int64), width - 1)
        row = np.minimum(pixel[:, 1].astype(np.int64), height - 1)
        cell = row * width + column
        self._order = np.argsort(cell, kind="stable")
        self._start = np.searchsorted(cell[self._order], np.arange(height * width + 1))
        self._direction, self._inverse, self._face = self._directions(pixel), inverse, face
        self._tiles_across = -(-width // TILE)
        tiles = self._tiles_across * -(-height // TILE)
        tile = row // TILE * self._tiles_across + column // TILE
        self._by_tile = np.argsort(tile, kind="stable")
        self._tile_start = np.searchsorted(tile[self._by_tile], np.arange(tiles + 1))
        self._tile_inverse = np.full(tiles, np.inf)
        np.minimum.at(self._tile_inverse, tile, inverse)

    def first_faces(self, faces: ProjectedFaces) -> np.ndarray:
        """Number of the nearest face at each place, int [N], as `first_faces.first_faces` defines it."""
        large = (faces.high - faces.low).max(axis=1) > LARGE
        pairs = chain(self._small(faces, np.nonzero(~large)[0]), self._large(faces, np.nonzero(large)[0]))
        hits = [self._hits(faces, number, place) for number, place in pairs]
        if not hits:
            return self._face.copy()
        place, number, inverse = (np.concatenate(each) for each in zip(*hits, strict=True))
        order = np.lexsort((-inverse, place))
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        most = np.repeat(inverse[order][starts], np.diff(starts, append=len(order)))
        order = order[inverse[order] >= most * (1 - EQUAL)]
        order = order[np.lexsort((number[order], place[order]))]
        first = order[np.flatnonzero(np.diff(place[order], prepend=-1))]
        place, number, inverse = place[first], number[first], inverse[first]
        wins = (inverse > self._inverse[place] * (1 + EQUAL)) | (number < self._face[place])
        result = self._face.copy()
        result[place[wins]] = number[wins]
        return result

    def _hits(self, faces: ProjectedFaces, which: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of pairs of face and place those that hit: place, number of the face, one over the depth."""
        direction = self._direction[place]
        inverse = dot(faces.plane[which], direction)
        near = np.nonzero((inverse >= self._inverse[place] * (1 - EQUAL)) & (inverse < 1 / NEAREST))[0]
        which, place, direction, inverse = which[near], place[near], direction[near], inverse[near]
        shares = dot(faces.edges[which], direction[:, None])
        hit = (shares >= -INSIDE * inverse[:, None]).all(axis=1)
        return place[hit], faces.numbers[which[hit]], inverse[hit]

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
            for some in _blocks(self._tile_start[tiles + 1] - self._tile_start[tiles]):
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
        ends = [np.stack([column + right, row + down], axis=1) for down in (0, 1) for right in (0, 1)]
        corners = [self._directions(TILE * end) for end in ends]
        inverse = np.max([corner @ faces.plane[face] for corner in corners], axis=0)
        shares = np.max([corner @ faces.edges[face].T for corner in corners], axis=0)
        scale = np.abs(faces.edges[face]).sum()
        near = (inverse + SLACK * scale >= self._tile_inverse[tile]) & (shares >= -SLACK * scale).all(axis=1)
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
