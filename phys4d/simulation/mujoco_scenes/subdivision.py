"""Loop subdivision: a finer, smoother surface drawn for a coarse simulated one.

Every fine vertex is a fixed linear combination of coarse vertices, so that the drawn surface has exact motion. Source:
    Loop, "Smooth subdivision surfaces based on triangles" (1987), with Warren's weights; a boundary becomes a cubic
    B-spline, and its corners (vertices with two edges) do not move.
"""

import numpy as np


class Subdivision:
    """One level of subdivision of a triangle mesh whose edges have one or two faces each.

    faces: int [F, 3], coarse faces; the attribute `faces` [4 F, 3] are the fine ones, whose vertices are the moved
        coarse vertices followed by one vertex for each edge.
    count: number V of coarse vertices.

    Raises ValueError if an edge has more than two faces.
    """

    def __init__(self, faces: np.ndarray, count: int) -> None:
        corners = np.asarray(faces, dtype=np.int64)
        sides = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        opposite = np.concatenate([corners[:, 2], corners[:, 0], corners[:, 1]])
        edges, which = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True)
        which = which.reshape(-1)
        shared = np.bincount(which, minlength=len(edges))
        if shared.max(initial=0) > 2:
            raise ValueError("an edge of more than two faces: expected a surface")
        self.count = count
        self._edges = edges
        # The two corners opposite each edge; on a boundary the edge's own ends, which give its midpoint.
        order = np.argsort(which, kind="stable")
        first = np.cumsum(shared) - shared
        inner = (shared == 2)[:, None]
        across = np.stack([opposite[order[first]], opposite[order[first + shared - 1]]], axis=1)
        self._across = np.where(inner, across, edges)
        self._ring, self._weight = _ring(edges, shared == 1, count)
        a, b, c = corners.T
        ab, bc, ca = (count + part for part in np.split(which, 3))
        fine = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        self.faces = np.concatenate([np.stack(triangle, axis=1) for triangle in fine]).astype(np.int32)

    def refine(self, vertices: np.ndarray) -> np.ndarray:
        """Fine vertices [..., V + E, 3] from coarse vertices [..., V, 3]."""
        edges, across = self._edges, self._across
        ends = vertices[..., edges[:, 0], :] + vertices[..., edges[:, 1], :]
        off = vertices[..., across[:, 0], :] + vertices[..., across[:, 1], :]
        around = np.zeros_like(vertices)
        for ring in self._ring.T:
            around += vertices[..., ring, :]
        # Rings are padded with the vertex itself; its difference to itself is 0 and adds nothing.
        around -= self._ring.shape[1] * vertices
        moved = vertices + self._weight[:, None] * around
        return np.concatenate([moved, 0.375 * ends + 0.125 * off], axis=-2)


def _ring(edges: np.ndarray, boundary: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of each vertex, int [V, degree], padded with the vertex itself, and the weight [V] of each neighbour.
    """
    degree = np.bincount(edges.ravel(), minlength=count)
    on_boundary = np.zeros(count, dtype=bool)
    on_boundary[edges[boundary].ravel()] = True
    inner_edge = ~boundary
    ends = np.concatenate([edges, edges[:, ::-1]])
    # Neighbours of a boundary vertex are those along the boundary only.
    used = np.concatenate([inner_edge, inner_edge]) & ~on_boundary[ends[:, 0]]
    used |= np.concatenate([boundary, boundary])
    ends = ends[used]
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    number = np.bincount(ends[:, 0], minlength=count)
    ring = np.repeat(np.arange(count)[:, None], max(int(number.max(initial=0)), 1), axis=1)
    rank = np.arange(len(ends)) - np.repeat(np.cumsum(number) - number, number)
    ring[ends[:, 0], rank] = ends[:, 1]
    weight = np.where(degree == 3, 3 / 16, 3 / (8 * np.maximum(degree, 1)))
    weight = np.where(on_boundary, np.where(degree <= 2, 0.0, 1 / 8), weight)
    return ring, weight
