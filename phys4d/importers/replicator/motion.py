"""Converts motion vectors, which point back to the previous frame, into motion from a frame to the next frame.

Replicator's documentation (DEFAULT_ANNOTATORS, "MotionVectors", in omni.replicator.core/scripts/annotators_default.py,
and annotators_details.rst): "x: motion distance in the horizontal axis (image width) with movement to the left of the
image being positive", y likewise towards the top; the other channels are unused. In its example a cone moves right by
200 and up by 50 units, and it prints x from -93.8 to 0 and y up to 23.45 for 512 pixels. So the unit is pixels, and
vector = position in the previous frame - position in this frame.

A vector at pixel q of frame t + 1 states that its surface point was at q + vector in frame t, usually not at a pixel
centre. Therefore the triangles between the pixel centres of frame t + 1 are mapped back to frame t; a pixel p of frame
t inside a triangle gets its landing point, and the depth there, by the same weights (1/z is affine on a plane). The
recording does not contain the depth that the point had at t, so a triangle may be behind the surface that p shows. It
is accepted only if

    its three corners are on one surface at t + 1: one instance, and 1/z is continuous across every edge;
    it does not show its back at t;
    it has the instance that p shows, if instances are known;
    either p has the depth that the triangle had at t if the world is at rest, and its vectors are consistent with rest;
    or, with the depth seen at its corners at t, its sides are as long as at t + 1 (within a factor of STRETCH).

Of several accepted triangles the nearest is used. The motion of all other pixels is unknown: they may be hidden at t +
    1, out of the image, or at a silhouette.
"""

from dataclasses import dataclass

import numpy as np

from phys4d.importers.replicator.frames import (
    EDGE,
    Frame,
    larger_component,
    pixel_centres,
    predict_at_rest,
    same_surface,
    sample,
)

REST_PIXELS = 0.05  # largest difference of a vector from that of a world at rest for a point at rest
STRETCH = 1.15  # largest factor between a triangle's side lengths in two successive frames
SNAP = 0.01  # pixels: a point this close to a pixel centre is assigned to that pixel
MOVING = 1e-4  # metres per frame, as in the simulator's truth
RESOLUTION = 0.02  # pixels: smaller displacements cannot be distinguished from rest
SPAN = 4  # pixels: largest extent of a triangle in frame t


@dataclass(frozen=True)
class ForwardMotion:
    """Motion from a frame to the next frame.

    motion: float64 [3, H, W], (du px, dv px, dz m), 0 if unknown.
    known: bool [H, W]; known pixels are also visible in the next frame.
    moving: bool [H, W], moving in the world.
    """

    motion: np.ndarray
    known: np.ndarray
    moving: np.ndarray


@dataclass(frozen=True)
class _Hits:
    """Pixels of frame t inside triangles of frame t + 1.

    pixel: int [N], flat index.
    corner: int [N, 3], flat indices of the triangle's corners.
    weight: [N, 3], barycentric coordinates.
    """

    pixel: np.ndarray
    corner: np.ndarray
    weight: np.ndarray

    def at(self, values: np.ndarray) -> np.ndarray:
        """Values [H, W] of frame t + 1 at the corners, [N, 3]."""
        return values.reshape(-1)[self.corner]

    def keep(self, which: np.ndarray) -> "_Hits":
        return _Hits(self.pixel[which], self.corner[which], self.weight[which])


def forward_motion(current: Frame, following: Frame, vectors: np.ndarray) -> ForwardMotion:
    """Motion from frame `current` to frame `following`.

    current, following: frames t and t + 1.
    vectors: float [H, W, 2], pixels, motion vectors of frame t + 1.
    """
    height, width = current.depth.shape
    centre = pixel_centres(height, width)
    source = centre + vectors
    usable = (following.depth > 0) & np.isfinite(source).all(axis=-1)
    source = np.where(usable[..., None], source, 0.0)
    rest = predict_at_rest(current, following)
    resting = (larger_component(np.abs(source - rest.place)) <= REST_PIXELS) & usable & (rest.depth > 0)
    still = larger_component(np.abs(source - np.floor(source) - 0.5)) <= SNAP  # at a pixel centre of frame t
    corner = _triangles(following, usable)
    corner = corner[~(resting & still).reshape(-1)[corner].all(axis=1)]  # their corners alone are on pixel centres
    hits = _join(_in_triangles(source, corner), _on_pixel_centres(source, usable & still))
    shown = current.instance.reshape(-1)[hits.pixel]
    hits = hits.keep(
        (current.depth.reshape(-1)[hits.pixel] > 0) & (following.instance.reshape(-1)[hits.corner[:, 0]] == shown)
    )
    by_rest = hits.at(resting)
    deep = by_rest.all(axis=1) & _depth_matches_rest(hits, current, rest.depth)
    labelled = current.instance.reshape(-1)[hits.pixel] > 0
    rest_deviation = np.where(deep, hits.at(larger_component(np.abs(source - rest.place))).max(axis=1), np.inf)
    # Without instances, a triangle with a corner at rest may be hidden, or belong to two surfaces that touch.
    asked = np.nonzero(~deep & (labelled | ~by_rest.any(axis=1)))[0]
    fits = deep.copy()
    fits[asked] = _size_preserved(
        hits.keep(asked), current, following, source, (labelled & ~by_rest.all(axis=1))[asked]
    )
    return _nearest(hits.keep(fits), current, following, source, rest_deviation[fits])


def _triangles(frame: Frame, usable: np.ndarray) -> np.ndarray:
    """Corners int [M, 3] of the triangles between neighbouring pixel centres that are on one surface."""
    height, width = usable.shape
    number = np.arange(height * width).reshape(height, width)
    across, down = same_surface(frame, usable, 1), same_surface(frame, usable, 0)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    first = across[:-1] & down[:, :-1]
    second = across[1:] & down[:, 1:]
    upper = np.stack([a[first], b[first], c[first]], axis=1)
    return np.concatenate([upper, np.stack([d[second], c[second], b[second]], axis=1)])


def _in_triangles(source: np.ndarray, corner: np.ndarray) -> _Hits:
    """All pairs of a pixel centre of frame t and a front-facing triangle that contains it."""
    height, width = source.shape[:2]
    place = source.reshape(-1, 2)[corner]
    sides = place[:, 1:] - place[:, :1]
    area = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]
    least = np.minimum(np.minimum(place[:, 0], place[:, 1]), place[:, 2])
    most = np.maximum(np.maximum(place[:, 0], place[:, 1]), place[:, 2])
    low, high = np.ceil(least - 0.5 - EDGE), np.floor(most - 0.5 + EDGE)
    low, high = np.maximum(low, 0), np.minimum(high, (width - 1, height - 1))
    front = (area > 1e-3) & (larger_component(most - least) <= SPAN)
    found = []
    for down in range(SPAN + 1):
        for right in range(SPAN + 1):
            step = np.array([right, down])
            which = np.nonzero(front & (larger_component(low + step - high) <= 0))[0]
            pixel = (low[which] + step).astype(np.int64)
            offset = pixel + 0.5 - place[which, 0]
            one, two = sides[which, 0], sides[which, 1]
            second = (offset[:, 0] * two[:, 1] - offset[:, 1] * two[:, 0]) / area[which]
            third = (one[:, 0] * offset[:, 1] - one[:, 1] * offset[:, 0]) / area[which]
            weight = np.stack([1 - second - third, second, third], axis=1)
            hits = _Hits(pixel[:, 1] * width + pixel[:, 0], corner[which], weight)
            found.append(hits.keep(weight.min(axis=1) >= -EDGE))
    return _join(*found)


def _on_pixel_centres(source: np.ndarray, still: np.ndarray) -> _Hits:
    """Points that were at a pixel centre of frame t; they need no interpolation, also at silhouettes."""
    height, width = still.shape
    column, row = np.floor(source[..., 0]), np.floor(source[..., 1])
    still = still & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    number = np.nonzero(still.reshape(-1))[0]
    pixel = (row * width + column)[still].astype(np.int64)
    return _Hits(pixel, np.repeat(number[:, None], 3, axis=1), np.tile((1.0, 0.0, 0.0), (len(number), 1)))


def _join(*hits: _Hits) -> _Hits:
    return _Hits(*(np.concatenate([getattr(h, name) for h in hits]) for name in ("pixel", "corner", "weight")))


def _depth_matches_rest(hits: _Hits, current: Frame, depth: np.ndarray) -> np.ndarray:
    """Bool [N]: the pixel shows the depth that a world at rest has there, within the extent of a pixel."""
    corners = hits.at(depth)
    inverse = (np.divide(1, corners, where=corners > 0, out=np.zeros_like(corners)) * hits.weight).sum(axis=1)
    shown = current.depth.reshape(-1)[hits.pixel]
    return np.abs(shown * inverse - 1) <= current.span


def _size_preserved(
    hits: _Hits, current: Frame, following: Frame, source: np.ndarray, otherwise: np.ndarray
) -> np.ndarray:
    """Bool [N]: the triangle's sides at t, with the depth seen there, are as long as at t + 1.

    otherwise: bool [N], the result where that depth is unknown, next to silhouettes.
    """
    place = source.reshape(-1, 2)[hits.corner]
    depth, sure = sample(current, place)
    k = current.view.intrinsics
    local = np.concatenate([(place - k[:2, 2]) / (k[0, 0], k[1, 1]), np.ones((*place.shape[:2], 1))], axis=2)
    before = local * depth[..., None]
    after = (following.view.rays(*following.depth.shape) * following.depth[..., None]).reshape(-1, 3)[hits.corner]
    lengths = [np.linalg.norm(points - np.roll(points, 1, axis=1), axis=2) for points in (before, after)]
    same = (lengths[0] <= STRETCH * lengths[1]) & (lengths[1] <= STRETCH * lengths[0])
    single = (hits.corner == hits.corner[:, :1]).all(axis=1)
    return np.where(sure.all(axis=1) & ~single, same.all(axis=1), otherwise)


def _nearest(
    hits: _Hits, current: Frame, following: Frame, source: np.ndarray, rest_deviation: np.ndarray
) -> ForwardMotion:
    """The motion of every pixel from its nearest hit.

    rest_deviation: [N], pixels by which the hits' vectors differ from a world at rest; inf if rest does not explain
        them.
    """
    height, width = current.depth.shape
    depth = 1 / (hits.weight / hits.at(following.depth)).sum(axis=1)
    order = np.lexsort((depth, hits.pixel))
    pixel, first = np.unique(hits.pixel[order], return_index=True)
    chosen = order[first]
    hits, depth, rest_deviation = hits.keep(chosen), depth[chosen], rest_deviation[chosen]
    centre = pixel_centres(height, width).reshape(-1, 2)
    flow = ((centre[hits.corner] - source.reshape(-1, 2)[hits.corner]) * hits.weight[..., None]).sum(axis=1)
    landing = centre[pixel] + flow
    motion, known, moving = np.zeros((3, height * width)), *np.zeros((2, height * width), dtype=bool)
    motion[:2, pixel] = flow.T
    motion[2, pixel] = depth - current.depth.reshape(-1)[pixel]
    known[pixel] = True
    k, pose = following.view.intrinsics, following.view.camera_to_world
    local = np.concatenate([(landing - k[:2, 2]) / (k[0, 0], k[1, 1]), np.ones((len(landing), 1))], axis=1)
    points = local * depth[:, None] @ pose[:3, :3].T + pose[:3, 3]
    moved = np.linalg.norm(points - current.points().reshape(-1, 3)[pixel], axis=1)
    moving[pixel] = (rest_deviation > RESOLUTION) & (moved > np.maximum(MOVING, RESOLUTION * depth * current.span))
    shape = (height, width)
    return ForwardMotion(motion.reshape(3, *shape), known.reshape(shape), moving.reshape(shape))
