"""Rays against triangles in float64: the distance to a face and the barycentric coordinates of the hit."""

import numpy as np


def intersect(direction: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersects rays from the origin, float64 [..., 3], with planes of triangles, [..., 3, 3]: distances and
    barycentrics [..., 3].

    Distances are in units of the direction, hence depths for directions of unit depth; NaN for parallel rays.
    """
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    first, second = b - a, c - a
    normal = cross(first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = dot(normal, a) / dot(normal, direction)
        point = distance[..., None] * direction - a
        square = dot(normal, normal)
        v = dot(cross(point, second), normal) / square
        w = dot(cross(first, point), normal) / square
    return distance, np.stack([1 - v - w, v, w], axis=-1)


def dot(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Scalar products [...] of vectors [..., 3], in a fixed order of summation."""
    return p[..., 0] * q[..., 0] + p[..., 1] * q[..., 1] + p[..., 2] * q[..., 2]


def cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Vector products [..., 3]; `np.cross` without its overhead on small arrays."""
    p0, p1, p2 = p[..., 0], p[..., 1], p[..., 2]
    q0, q1, q2 = q[..., 0], q[..., 1], q[..., 2]
    return np.stack([p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0], axis=-1)
