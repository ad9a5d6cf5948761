"""Meshes for flexible bodies: square sheets, solids on a cubic grid, closed shells."""

from functools import cache

import numpy as np

from phys4d.simulation.shapes import icosphere


def sheet(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of `count` x `count` points in -1..1: points [N, 2] and triangles [F, 3] with alternating diagonals.

    count: odd, so that each corner of the square belongs to one triangle. Point (i, j) has index i * count + j.

    Raises ValueError if count is even.
    """
    if count % 2 == 0:
        raise ValueError(f"count {count}: expected an odd number")
    along = np.linspace(-1, 1, count)
    places = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(count - 1), np.arange(count - 1), indexing="ij"))
    a = i * count + j
    b, c, d = a + count, a + count + 1, a + 1
    turned = ((i + j) % 2 == 1)[:, None]
    first = np.where(turned, np.stack([a, b, c], axis=1), np.stack([a, b, d], axis=1))
    second = np.where(turned, np.stack([a, c, d], axis=1), np.stack([b, c, d], axis=1))
    return places, np.concatenate([first, second])


@cache
def grid(nx: int, ny: int, nz: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cube of points in -1..1: points [N, 3], tetrahedra [E, 4] and outward triangles [F, 3] of its surface.

    Each cell is split into five tetrahedra, mirrored from cell to cell so that neighbours share diagonals. Point (i, j,
    k) has index (i * ny + j) * nz + k.

    nx, ny, nz: points along each axis.
    """
    axes = [np.linspace(-1, 1, n) for n in (nx, ny, nz)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = np.stack(np.meshgrid(*(np.arange(n - 1) for n in (nx, ny, nz)), indexing="ij"), axis=-1).reshape(-1, 3)
    # Corners of a cell are numbered by bits (x, y, z); odd cells are mirrored along x.
    five = np.array([[0, 1, 2, 4], [3, 2, 1, 7], [5, 4, 7, 1], [6, 7, 4, 2], [1, 2, 4, 7]])
    bits = np.stack([five & 1, five >> 1 & 1, five >> 2 & 1], axis=-1)
    odd = cells.sum(axis=1) % 2 == 1
    offset = np.repeat(bits[None], len(cells), axis=0)
    offset[odd, :, :, 0] = 1 - offset[odd, :, :, 0]
    at = cells[:, None, None, :] + offset
    tetrahedra = ((at[..., 0] * ny + at[..., 1]) * nz + at[..., 2]).reshape(-1, 4)
    tetrahedra = _right_handed(places, tetrahedra)
    return places, tetrahedra, _skin(tetrahedra)


def _right_handed(points: np.ndarray, tetrahedra: np.ndarray) -> np.ndarray:
    a, b, c, d = (points[tetrahedra[:, k]] for k in range(4))
    negative = (np.cross(b - a, c - a) * (d - a)).sum(axis=1) < 0
    return np.where(negative[:, None], tetrahedra[:, [0, 2, 1, 3]], tetrahedra)


def _skin(tetrahedra: np.ndarray) -> np.ndarray:
    """Outward faces that belong to exactly one tetrahedron."""
    a, b, c, d = tetrahedra.T
    faces = np.concatenate([np.stack(face, axis=1) for face in ((a, c, b), (a, b, d), (a, d, c), (b, c, d))])
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    return faces[np.sort(first[count == 1])]


def rounded(places: np.ndarray, half: tuple[float, float, float], radius: float) -> np.ndarray:
    """Maps points of the cube -1..1 into a box with rounded edges.

    places: [N, 3], points in -1..1.
    half: half extents, metres.
    radius: radius of the edges, metres.
    """
    outer = np.abs(places).max(axis=1, keepdims=True)
    on_face = places / np.maximum(outer, 1e-12)
    size = np.array(half)
    inner = np.clip(on_face * size, radius - size, size - radius)
    direction = on_face * size - inner
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    surface = inner + radius * direction / np.maximum(length, 1e-12)
    return outer * surface


def ball(places: np.ndarray, radius: tuple[float, float, float]) -> np.ndarray:
    """Maps points [N, 3] of the cube -1..1 into an ellipsoid with half axes `radius`, metres."""
    # Equal angles between neighbours on the surface; a linear map would crowd points at the cube's corners.
    outer = np.abs(places).max(axis=1, keepdims=True)
    spread = np.tan(places / np.maximum(outer, 1e-12) * np.pi / 4)
    direction = spread / np.maximum(np.linalg.norm(spread, axis=1, keepdims=True), 1e-12)
    return outer * direction * np.array(radius)


def cylinder(places: np.ndarray, radius: float, half: float) -> np.ndarray:
    """Maps points [N, 3] of the cube -1..1 into an upright cylinder; radius and half length in metres."""
    outer = np.abs(places[:, :2]).max(axis=1, keepdims=True)
    spread = np.tan(places[:, :2] / np.maximum(outer, 1e-12) * np.pi / 4)
    direction = spread / np.maximum(np.linalg.norm(spread, axis=1, keepdims=True), 1e-12)
    return np.concatenate([outer * direction * radius, places[:, 2:] * half], axis=1)


@cache
def geodesic(frequency: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere from an icosahedron whose sides are split into frequency**2 triangles: vertices [V, 3], faces [F, 3].
    """
    corners, sides = icosphere(0)
    number: dict[tuple[float, ...], int] = {}
    points: list[np.ndarray] = []
    faces = []
    for side in sides:
        a, b, c = corners[side]
        at = {}
        for i in range(frequency + 1):
            for j in range(frequency + 1 - i):
                point = a + (b - a) * (i / frequency) + (c - a) * (j / frequency)
                point = point / np.linalg.norm(point)
                key = tuple(float(x) for x in np.round(point, 6) + 0.0)
                if key not in number:
                    number[key] = len(points)
                    points.append(point)
                at[i, j] = number[key]
        for i in range(frequency):
            for j in range(frequency - i):
                faces.append((at[i, j], at[i + 1, j], at[i, j + 1]))
                if i + j < frequency - 1:
                    faces.append((at[i + 1, j], at[i + 1, j + 1], at[i, j + 1]))
    return np.array(points), np.array(faces)


def pillow(sphere: np.ndarray) -> np.ndarray:
    """Maps points [N, 3] of the unit sphere onto a cushion shape inside -1..1 with squarish horizontal sections."""
    x, y = sphere[:, :1], sphere[:, 1:2]
    # Horizontal sections become superellipses of exponent 3, between a circle and a square.
    stretch = 1 / np.maximum(np.hypot(x, y), 1e-9) * np.cbrt(np.abs(x) ** 3 + np.abs(y) ** 3)
    return np.concatenate([sphere[:, :2] / np.maximum(stretch, 0.7), sphere[:, 2:]], axis=1)
