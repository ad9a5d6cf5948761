"""Motion vectors lead back to the previous frame; here they are turned into motion from a frame to the next one.

What Replicator says of them (DEFAULT_ANNOTATORS, "MotionVectors", in omni.replicator.core/scripts/
annotators_default.py, and annotators_details.rst): "x: motion distance in the horizontal axis (image width) with
movement to the left of the image being positive", y likewise towards the top; the rest is unused. Its example, in which
a cone moves right by 200 and up by 50 units, prints x from -93.8 to 0 and y up to 23.45 for 512 pixels. So these are
pixels, and vector = place in the previous frame - place in this one.

A vector at pixel q of frame t + 1 says that its surface point was at q + vector in frame t, where no pixel centre need
be. So the triangles between the pixel centres of frame t + 1 are carried back to frame t; a pixel of frame t inside one
gets its landing point, and the depth there, by the same weights (1/z is affine on a plane). Nobody says how deep the
point was at t, so a triangle may lie behind what pixel p shows. It counts only if

    its three corners are of one surface at t + 1: of one instance, and 1/z runs on across every edge;
    it does not show its back at t;
    it is of the instance that p shows, where instances are known;
    p is as deep as the triangle was at t if the world is at rest, and its vectors say that it may be; or the triangle
    is as large as at t + 1 (nothing stretches by more than a seventh in a frame) with the depth at its corners at t.

Of several the nearest counts. All else is not known: it may be hidden at t + 1, out of the image, or at a silhouette.
"""

from dataclasses import dataclass

import numpy as np

from phys4d.importers.replicator.camera import View

REST = 0.05  # pixels by which a vector may differ from that of a world at rest
STRETCH = 1.15  # of a triangle's sides from one frame to the next
SNAP = 0.01  # pixels: a point this close to a pixel centre is that pixel's
MOVING = 1e-4  # metres per frame, as in the simulator's truth
RESOLVED = 0.02  # pixels, and what these span: smaller displacements are not told from rest
SPAN = 4  # pixels: no triangle that is larger at t counts
_EDGE = 1e-9


@dataclass(frozen=True)
class Frame:
    """What is known of a frame. depth: float64 [H, W] metres along the axis, 0 where there is no surface.

    instance: int [H, W], 0 where not known.
    """

    depth: np.ndarray
    instance: np.ndarray
    view: View

    @property
    def span(self) -> float:
        """What a pixel spans at a distance of one metre, in metres."""
        return 1 / float(self.view.intrinsics[0, 0])

    def points(self) -> np.ndarray:
        """World points [H, W, 3] that the pixel centres see; the camera's own place where there is no surface."""
        local = self.view.rays(*self.depth.shape) * self.depth[..., None]
        return local @ self.view.camera_to_world[:3, :3].T + self.view.camera_to_world[:3, 3]


@dataclass(frozen=True)
class Forward:
    """Motion from a frame to the next one. motion: float64 [3, H, W] (du px, dv px, dz m), 0 where not known.

    known: bool [H, W]; what is known is also visible in the next frame. moving: bool [H, W], in the world.
    """

    motion: np.ndarray
    known: np.ndarray
    moving: np.ndarray


@dataclass(frozen=True)
class Rest:
    """Where the points of a frame were in the previous one if the world was at rest: place [H, W, 2], depth [H, W]."""

    place: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class _Hits:
    """Pixels of frame t in triangles of frame t + 1. pixel: int [N]; corner: int [N, 3] pixels; weight: [N, 3]."""

    pixel: np.ndarray
    corner: np.ndarray
    weight: np.ndarray

    def at(self, values: np.ndarray) -> np.ndarray:
        """Values [H, W] of frame t + 1 at the corners, [N, 3]."""
        return values.reshape(-1)[self.corner]

    def keep(self, which: np.ndarray) -> "_Hits":
        return _Hits(self.pixel[which], self.corner[which], self.weight[which])


def forward(now: Frame, then: Frame, vectors: np.ndarray) -> Forward:
    """Motion from frame `now` to frame `then`, whose motion vectors are given: float [H, W, 2] pixels."""
    height, width = now.depth.shape
    centre = centres(height, width)
    source = centre + vectors
    usable = (then.depth > 0) & np.isfinite(source).all(axis=-1)
    source = np.where(usable[..., None], source, 0.0)
    rest = at_rest(now, then)
    resting = (largest(np.abs(source - rest.place)) <= REST) & usable & (rest.depth > 0)
    still = largest(np.abs(source - np.floor(source) - 0.5)) <= SNAP  # on a pixel centre of frame t
    corner = _triangles(then, usable)
    corner = corner[~(resting & still).reshape(-1)[corner].all(axis=1)]  # their corners alone are on pixel centres
    hits = _join(_in_triangles(source, corner), _oncentres(source, usable & still))
    shown = now.instance.reshape(-1)[hits.pixel]
    hits = hits.keep((now.depth.reshape(-1)[hits.pixel] > 0) & (then.instance.reshape(-1)[hits.corner[:, 0]] == shown))
    by_rest = hits.at(resting)
    deep = by_rest.all(axis=1) & _as_deep(hits, now, rest.depth)
    labelled = now.instance.reshape(-1)[hits.pixel] > 0
    off_rest = np.where(deep, hits.at(largest(np.abs(source - rest.place))).max(axis=1), np.inf)
    # Without instances a triangle that rests, if only in part, may be hidden or two surfaces that touch.
    asked = np.nonzero(~deep & (labelled | ~by_rest.any(axis=1)))[0]
    fits = deep.copy()
    fits[asked] = _as_large(hits.keep(asked), now, then, source, (labelled & ~by_rest.all(axis=1))[asked])
    return _nearest(hits.keep(fits), now, then, source, off_rest[fits])


def centres(height: int, width: int) -> np.ndarray:
    """Places of the pixel centres, float64 [H, W, 2]."""
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([column, row], axis=-1)


def at_rest(now: Frame, then: Frame) -> Rest:
    """Where the points of frame `then` were in frame `now` if the world was at rest."""
    pose, k = now.view.camera_to_world, now.view.intrinsics
    local = (then.points() - pose[:3, 3]) @ pose[:3, :3]
    depth = np.where((then.depth > 0) & (local[..., 2] > 0), local[..., 2], 0.0)
    ahead = np.where(depth > 0, depth, 1.0)[..., None]
    return Rest(local[..., :2] / ahead * (k[0, 0], k[1, 1]) + k[:2, 2], depth)


def _triangles(frame: Frame, usable: np.ndarray) -> np.ndarray:
    """Corners int [M, 3] of the triangles between neighbouring pixel centres that lie on one surface."""
    height, width = usable.shape
    number = np.arange(height * width).reshape(height, width)
    across, down = _runs_on(frame, usable, 1), _runs_on(frame, usable, 0)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    first = across[:-1] & down[:, :-1]
    second = across[1:] & down[:, 1:]
    upper = np.stack([a[first], b[first], c[first]], axis=1)
    return np.concatenate([upper, np.stack([d[second], c[second], b[second]], axis=1)])


def _runs_on(frame: Frame, usable: np.ndarray, axis: int) -> np.ndarray:
    """Whether two neighbours along an axis see one surface, which one more pixel on one side continues.

    Continues: the depth foretold from two pixels is right within what a pixel spans.
    """
    inverse = np.moveaxis(np.divide(1, frame.depth, where=usable, out=np.full(usable.shape, np.nan)), axis, 0)
    instance, seen = np.moveaxis(frame.instance, axis, 0), np.moveaxis(usable, axis, 0)
    bend = np.abs(inverse[2:] - 2 * inverse[1:-1] + inverse[:-2])  # of the pixel in the middle; NaN beside the unknown
    bend = np.where(np.isfinite(bend), bend, np.inf)
    unknown = np.full((1, *bend.shape[1:]), np.inf)
    either = np.minimum(np.concatenate([unknown, bend]), np.concatenate([bend, unknown]))
    pair = seen[:-1] & seen[1:] & (instance[:-1] == instance[1:])
    largest = np.where(pair, np.fmax(inverse[:-1], inverse[1:]), 0.0)
    return np.moveaxis(pair & (either <= largest * frame.span), 0, axis)


def _in_triangles(source: np.ndarray, corner: np.ndarray) -> _Hits:
    """Every pixel centre of frame t in every triangle that shows its front there."""
    height, width = source.shape[:2]
    place = source.reshape(-1, 2)[corner]
    sides = place[:, 1:] - place[:, :1]
    area = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]
    least = np.minimum(np.minimum(place[:, 0], place[:, 1]), place[:, 2])
    most = np.maximum(np.maximum(place[:, 0], place[:, 1]), place[:, 2])
    low, high = np.ceil(least - 0.5 - _EDGE), np.floor(most - 0.5 + _EDGE)
    low, high = np.maximum(low, 0), np.minimum(high, (width - 1, height - 1))
    front = (area > 1e-3) & (largest(most - least) <= SPAN)
    found = []
    for down in range(SPAN + 1):
        for right in range(SPAN + 1):
            step = np.array([right, down])
            which = np.nonzero(front & (largest(low + step - high) <= 0))[0]
            pixel = (low[which] + step).astype(np.int64)
            offset = pixel + 0.5 - place[which, 0]
            one, two = sides[which, 0], sides[which, 1]
            second = (offset[:, 0] * two[:, 1] - offset[:, 1] * two[:, 0]) / area[which]
            third = (one[:, 0] * offset[:, 1] - one[:, 1] * offset[:, 0]) / area[which]
            weight = np.stack([1 - second - third, second, third], axis=1)
            hits = _Hits(pixel[:, 1] * width + pixel[:, 0], corner[which], weight)
            found.append(hits.keep(weight.min(axis=1) >= -_EDGE))
    return _join(*found)


def _oncentres(source: np.ndarray, still: np.ndarray) -> _Hits:
    """Points that were on a pixel centre of frame t: there nothing is interpolated, also at silhouettes."""
    height, width = still.shape
    column, row = np.floor(source[..., 0]), np.floor(source[..., 1])
    still = still & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    number = np.nonzero(still.reshape(-1))[0]
    pixel = (row * width + column)[still].astype(np.int64)
    return _Hits(pixel, np.repeat(number[:, None], 3, axis=1), np.tile((1.0, 0.0, 0.0), (len(number), 1)))


def largest(values: np.ndarray) -> np.ndarray:
    """The larger of two numbers in the last axis; many times faster than max() along so short an axis."""
    return np.maximum(values[..., 0], values[..., 1])


def _join(*hits: _Hits) -> _Hits:
    return _Hits(*(np.concatenate([getattr(h, name) for h in hits]) for name in ("pixel", "corner", "weight")))


def _as_deep(hits: _Hits, now: Frame, depth: np.ndarray) -> np.ndarray:
    """Bool [N]: the pixel shows what a world at rest has there, its depth within what a pixel spans."""
    corners = hits.at(depth)
    inverse = (np.divide(1, corners, where=corners > 0, out=np.zeros_like(corners)) * hits.weight).sum(axis=1)
    shown = now.depth.reshape(-1)[hits.pixel]
    return np.abs(shown * inverse - 1) <= now.span


def _as_large(hits: _Hits, now: Frame, then: Frame, source: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Bool [N]: the triangle's sides are as long at t, with the depth seen there, as at t + 1.

    Where that depth cannot be had, beside silhouettes: what `otherwise` says, bool [N].
    """
    place = source.reshape(-1, 2)[hits.corner]
    depth, sure = sample(now, place)
    k = now.view.intrinsics
    local = np.concatenate([(place - k[:2, 2]) / (k[0, 0], k[1, 1]), np.ones((*place.shape[:2], 1))], axis=2)
    before = local * depth[..., None]
    after = (then.view.rays(*then.depth.shape) * then.depth[..., None]).reshape(-1, 3)[hits.corner]
    lengths = [np.linalg.norm(points - np.roll(points, 1, axis=1), axis=2) for points in (before, after)]
    same = (lengths[0] <= STRETCH * lengths[1]) & (lengths[1] <= STRETCH * lengths[0])
    single = (hits.corner == hits.corner[:, :1]).all(axis=1)
    return np.where(sure.all(axis=1) & ~single, same.all(axis=1), otherwise)


def sample(frame: Frame, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth at places [N, 3, 2], interpolated as 1/z, and where its four neighbours lie on one surface."""
    height, width = frame.depth.shape
    usable = frame.depth > 0
    corner = np.floor(place - 0.5).astype(np.int64)
    column, row = (np.clip(corner[..., i], 0, size - 2) for i, size in enumerate((width, height)))
    share = place - 0.5 - np.stack([column, row], axis=-1)
    inside = (share >= -_EDGE).all(axis=-1) & (share <= 1 + _EDGE).all(axis=-1)
    across, down = _runs_on(frame, usable, 1), _runs_on(frame, usable, 0)
    sure = across[row, column] & across[row + 1, column] & down[row, column] & down[row, column + 1] & inside
    inverse = np.divide(1, frame.depth, where=usable, out=np.zeros(usable.shape))
    right, lower = share[..., 0], share[..., 1]
    top = inverse[row, column] * (1 - right) + inverse[row, column + 1] * right
    bottom = inverse[row + 1, column] * (1 - right) + inverse[row + 1, column + 1] * right
    value = top * (1 - lower) + bottom * lower
    return np.divide(1, value, where=sure & (value > 0), out=np.zeros_like(value)), sure


def _nearest(hits: _Hits, now: Frame, then: Frame, source: np.ndarray, off_rest: np.ndarray) -> Forward:
    """The nearest hit of every pixel as its motion.

    off_rest: [N] pixels by which the hits' vectors miss those of a world at rest, inf where it does not explain them.
    """
    height, width = now.depth.shape
    depth = 1 / (hits.weight / hits.at(then.depth)).sum(axis=1)
    order = np.lexsort((depth, hits.pixel))
    pixel, first = np.unique(hits.pixel[order], return_index=True)
    chosen = order[first]
    hits, depth, off_rest = hits.keep(chosen), depth[chosen], off_rest[chosen]
    centre = centres(height, width).reshape(-1, 2)
    flow = ((centre[hits.corner] - source.reshape(-1, 2)[hits.corner]) * hits.weight[..., None]).sum(axis=1)
    landing = centre[pixel] + flow
    motion, known, moving = np.zeros((3, height * width)), *np.zeros((2, height * width), dtype=bool)
    motion[:2, pixel] = flow.T
    motion[2, pixel] = depth - now.depth.reshape(-1)[pixel]
    known[pixel] = True
    k, pose = then.view.intrinsics, then.view.camera_to_world
    local = np.concatenate([(landing - k[:2, 2]) / (k[0, 0], k[1, 1]), np.ones((len(landing), 1))], axis=1)
    points = local * depth[:, None] @ pose[:3, :3].T + pose[:3, 3]
    moved = np.linalg.norm(points - now.points().reshape(-1, 3)[pixel], axis=1)
    moving[pixel] = (off_rest > RESOLVED) & (moved > np.maximum(MOVING, RESOLVED * depth * now.span))
    shape = (height, width)
    return Forward(motion.reshape(3, *shape), known.reshape(shape), moving.reshape(shape))
