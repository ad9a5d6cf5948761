"""Triangle meshes of simple shapes, centred at the origin, faces outward, vertices split at hard edges."""

from functools import cache
from itertools import pairwise

import numpy as np

Mesh = tuple[np.ndarray, np.ndarray]


def mesh(shape: str, size: tuple[float, ...], detail: int = 3) -> Mesh:
    """Vertices float64 [V, 3] in metres and faces int32 [F, 3] of a named shape.

    shape: "ball", "box", "cylinder" or "capsule"; cylinder and capsule are along z.
    size: metres: ball (radius); box half extents (x, y, z); cylinder (radius, half length); capsule (radius, half
        length without its caps).
    detail: subdivision level; each level doubles the number of edges around round shapes (3: a ball of 1280 faces).

    Raises ValueError for another shape.
    """
    if shape == "ball":
        vertices, faces = icosphere(detail)
        return vertices * size[0], faces
    if shape == "box":
        vertices, faces = unit_box()
        return vertices * np.array(size), faces
    if shape == "cylinder":
        radius, half = size
        low, high = (radius, -half), (radius, half)
        return lathe([(0, -half), low, low, high, high, (0, half)], 6 * 2**detail)
    if shape == "capsule":
        radius, half = size
        angle = np.linspace(0, np.pi / 2, 1 + 2**detail)
        arc = [(radius * np.sin(a), radius * np.cos(a)) for a in angle]
        return lathe([(r, -half - z) for r, z in arc] + [(r, half + z) for r, z in arc[::-1]], 4 * 2**detail)
    raise ValueError(f"shape {shape!r}: expected ball, box, cylinder or capsule")


def volume(shape: str, size: tuple[float, ...]) -> float:
    """Volume in m3 of the ideal shape; sizes as for `mesh`. Raises ValueError for another shape."""
    if shape == "ball":
        return 4 / 3 * np.pi * size[0] ** 3
    if shape == "box":
        return 8 * size[0] * size[1] * size[2]
    if shape == "cylinder":
        return 2 * np.pi * size[0] ** 2 * size[1]
    if shape == "capsule":
        return np.pi * size[0] ** 2 * (2 * size[1] + 4 / 3 * size[0])
    raise ValueError(f"shape {shape!r}: expected ball, box, cylinder or capsule")


def bounding_radius(shape: str, size: tuple[float, ...]) -> float:
    """Radius in metres of the smallest sphere around the origin that contains the shape; sizes as for `mesh`."""
    if shape == "capsule":
        return size[0] + size[1]
    return float(np.linalg.norm(size))


def inscribed_radius(shape: str, size: tuple[float, ...]) -> float:
    """Radius in metres of the largest sphere around the origin inside the shape; sizes as for `mesh`."""
    return size[0] if shape == "capsule" else min(size)


def half_height(shape: str, size: tuple[float, ...]) -> float:
    """Height in metres of the centre above the floor if the shape stands upright on it; sizes as for `mesh`."""
    if shape == "capsule":
        return size[0] + size[1]
    return size[-1]


@cache
def icosphere(subdivisions: int) -> Mesh:
    """Unit sphere with 20 * 4**subdivisions faces; vertices lie on the sphere."""
    g = (1 + 5**0.5) / 2
    corners: list[tuple[float, float, float]] = [
        (-1, g, 0),
        (1, g, 0),
        (-1, -g, 0),
        (1, -g, 0),
        (0, -1, g),
        (0, 1, g),
    ]
    corners += [(0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2)]
    faces += [(10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5)]
    faces += [(2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)]
    points = [np.array(p) / np.linalg.norm(p) for p in corners]
    for _ in range(subdivisions):
        middle: dict[tuple[int, int], int] = {}
        finer = []
        for triangle in faces:
            edges = []
            for i, j in zip(triangle, triangle[1:] + triangle[:1], strict=True):
                key = (min(i, j), max(i, j))
                if key not in middle:
                    between = points[i] + points[j]
                    middle[key] = len(points)
                    points.append(between / np.linalg.norm(between))
                edges.append(middle[key])
            (a, b, c), (ab, bc, ca) = triangle, edges
            finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = finer
    return np.array(points), np.array(faces, dtype=np.int32)


@cache
def unit_box() -> Mesh:
    """Cube from -1 to 1 whose six sides have four vertices each."""
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for axis in range(3):
        for sign in (-1, 1):
            square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)[::sign]
            side = np.empty((4, 3))
            side[:, axis], side[:, (axis + 1) % 3], side[:, (axis + 2) % 3] = sign, square[:, 0], square[:, 1]
            faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + 4 * len(vertices))
            vertices.append(side)
    return np.concatenate(vertices), np.concatenate(faces).astype(np.int32)


def rectangle(corner: np.ndarray, first: np.ndarray, second: np.ndarray) -> Mesh:
    """Two triangles spanned by the edges `first` and `second` from `corner` (each [3], metres); the normal is first x
    second.
    """
    vertices = np.stack([corner, corner + first, corner + first + second, corner + second]).astype(float)
    return vertices, np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)


def lathe(profile: list[tuple[float, float]], segments: int) -> Mesh:
    """Surface of revolution about z.

    profile: (radius, z) points from bottom to top, metres; a repeated point makes a hard edge.
    segments: edges around the axis.
    """
    angle = np.arange(segments) * (2 * np.pi / segments)
    rings = [np.stack([r * np.cos(angle), r * np.sin(angle), np.full(segments, z)], axis=1) for r, z in profile]
    i = np.arange(segments)
    j = (i + 1) % segments
    faces = []
    for k, ((r0, z0), (r1, z1)) in enumerate(pairwise(profile)):
        if (r0, z0) == (r1, z1):
            continue
        low, high = k * segments, (k + 1) * segments
        if r0 > 0:
            faces.append(np.stack([low + i, low + j, high + j], axis=1))
        if r1 > 0:
            faces.append(np.stack([low + i, high + j, high + i], axis=1))
    return np.concatenate(rings), np.concatenate(faces).astype(np.int32)
