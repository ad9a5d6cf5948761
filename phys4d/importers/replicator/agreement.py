"""Checks motion vectors against masks, depth and cameras of the same recording; neither check needs ground truth.

`count_at_rest`: with a moving camera, the vectors of points at rest follow from camera and depth.

`evidence`: a point cannot have been at a place where a farther surface was seen. Points of a frame are followed back
    over a few frames, once as if the world were at rest and once by the vectors. Rest is refuted for a point if it
    leads to a place where, within one pixel, neither its instance nor any surface as near as the point is seen; such a
    point has moved. The vectors of a moved point are wrong if they are refuted in the same way, or if they lead out of
    an image that shows all of its instance. Nothing is concluded if the place is hidden by a nearer surface, is outside
    of the image for another reason, or if the frame does not show the instance at all: so objects that enter, leave,
    appear, are covered or rotate in place give no evidence against their vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from phys4d.importers.replicator.frames import Frame, larger_component, pixel_centres, predict_at_rest

# Pixels by which camera motion must displace a point at rest, so that its vector shows whether the vectors are right.
MIN_PARALLAX = 0.5
WINDOW, WINDOW_STRIDE = 8, 4  # points are followed over WINDOW frames, from every WINDOW_STRIDE-th frame
BORDER = 2  # pixels: an instance seen this close to the image's border may extend beyond it
# A point that is explained over this many frames and pixels is not followed further, since errors accumulate.
CONFIRMED_FRAMES, CONFIRMED_PIXELS = 4, 2.0
BEHIND = 1.05  # a surface is behind a point if it is deeper by this factor
DEPTH_CHANGE = 0.15  # largest relative change of a surface's depth from frame to frame
MIN_POINTS, MAX_WRONG = 16, 0.5  # least number of points as evidence; largest share of wrong ones in sound vectors
# The vectors times each of these factors must not explain twice as many points of an instance as the vectors do.
ALTERNATIVE_FACTORS = (-1.0, 0.5)


@dataclass(frozen=True)
class Evidence:
    """Counts of points that have moved, by instance, int64 [256].

    wrong: points whose vectors are contradicted.
    explained: points whose motion the vectors explain.
    others: int64 [2, 256], points that the vectors times each of ALTERNATIVE_FACTORS explain.
    """

    wrong: np.ndarray
    explained: np.ndarray
    others: np.ndarray

    def __add__(self, other: "Evidence") -> "Evidence":
        return Evidence(self.wrong + other.wrong, self.explained + other.explained, self.others + other.others)

    def contradicted_instances(self) -> list[tuple[int, int, int]]:
        """Instances with wrong vectors, the worst first: (instance, points explained, points moved).

        Instance 0 contains everything without an instance.
        """
        share = self.wrong / np.maximum(self.wrong + self.explained, 1)
        others = self.others.max(axis=0)
        others[0] = 0  # without instances a wrong place often has the right depth by chance
        less = (others >= MIN_POINTS) & (2 * self.explained < others)
        found = np.flatnonzero((self.wrong >= MIN_POINTS) & (share > MAX_WRONG) | less)
        moved = np.maximum(self.wrong + self.explained, others)
        return sorted(((int(i), int(self.explained[i]), int(moved[i])) for i in found), key=lambda row: row[1] - row[2])


NO_EVIDENCE = Evidence(*(np.zeros(shape, dtype=np.int64) for shape in (256, 256, (len(ALTERNATIVE_FACTORS), 256))))


def count_at_rest(current: Frame, following: Frame, vectors: np.ndarray, tolerance: float) -> tuple[int, int]:
    """Number of vectors that fit a world at rest, and number of tested pixels.

    Tested are pixels that the camera's motion displaces by more than MIN_PARALLAX if they are at rest.

    current, following: frames t and t + 1.
    vectors: float [H, W, 2], pixels, of frame t + 1.
    tolerance: pixels.
    """
    expected = predict_at_rest(current, following).place - pixel_centres(*current.depth.shape)
    tested = (following.depth > 0) & (larger_component(np.abs(expected)) > MIN_PARALLAX)
    fits = larger_component(np.abs(vectors - expected)) <= tolerance
    return int((fits & tested).sum()), int(tested.sum())


def evidence(frames: Sequence[Frame], vectors: Sequence[np.ndarray]) -> Evidence:
    """The evidence of the last frame's points about the vectors.

    frames: two or more successive frames.
    vectors: of all frames but the first, to the previous frame: [H, W, 2], pixels.
    """
    last = frames[-1]
    asked = last.depth > 0
    if all(_same_view(frame, last) for frame in frames):
        resting = [np.zeros_like(leads) for leads in vectors]
        asked &= np.any([(f.depth != last.depth) | (f.instance != last.instance) for f in frames[:-1]], axis=0)
    else:
        resting = [predict_at_rest(*pair).place - pixel_centres(*last.depth.shape) for pair in pairwise(frames)]
    moved, _ = _follow(frames, resting, np.flatnonzero(asked))
    wrong, explained = _follow(frames, vectors, moved)
    others = [_follow(frames, [factor * leads for leads in vectors], moved)[1] for factor in ALTERNATIVE_FACTORS]
    counts = [np.bincount(last.instance.reshape(-1)[pixels], minlength=256) for pixels in (wrong, explained, *others)]
    return Evidence(counts[0], counts[1], np.stack(counts[2:]))


def _same_view(one: Frame, other: Frame) -> bool:
    fields = ("camera_to_world", "intrinsics")
    return all(np.array_equal(getattr(one.view, name), getattr(other.view, name)) for name in fields)


def _follow(frames: Sequence[Frame], vectors: Sequence[np.ndarray], pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the last frame whose vectors lead to an impossible place, and pixels whose vectors explain their
    motion.

    A point takes the depth of the surface found at its place, so that its depth may change from frame to frame.

    frames, vectors: as in `evidence`.
    pixel: int [N], flat indices of pixels of the last frame.
    """
    place, way = pixel_centres(*frames[-1].depth.shape).reshape(-1, 2)[pixel], np.zeros(len(pixel))
    label, depth = (field.reshape(-1)[pixel] for field in (frames[-1].instance, frames[-1].depth))
    step = vectors[-1].reshape(-1, 2)[pixel]
    height, width = frames[-1].depth.shape
    wrong, explained = [], []
    for back, frame in enumerate(reversed(frames[:-1]), 1):
        place, way = place + step, way + larger_component(np.abs(step))
        inside = ((place >= 1) & (place < (width - 1, height - 1))).all(axis=1)
        outside = ((place < 0) | (place > (width, height))).any(axis=1) & np.isfinite(place).all(axis=1)
        wrong.append(pixel[outside & _fully_visible(frame)[label]])
        pixel, way, place, label, depth = (a[inside] for a in (pixel, way, place, label, depth))
        at, refuted = _match_surface(frame, place, label, depth)
        wrong.append(pixel[refuted])
        gone = (way > CONFIRMED_PIXELS) & (back >= CONFIRMED_FRAMES)
        explained.append(pixel[(at >= 0) & gone])
        on = (at >= 0) & ~gone
        pixel, way, place, label, at = (a[on] for a in (pixel, way, place, label, at))
        depth = frame.depth.reshape(-1)[at]
        if back < len(vectors):
            step = _interpolate_vectors(frame, vectors[-1 - back], place, at, label, depth)
    return np.concatenate(wrong), np.concatenate([*explained, pixel])


def _fully_visible(frame: Frame) -> np.ndarray:
    """Bool [256]: instances that are visible in the frame and do not touch its border."""
    whole = np.bincount(frame.instance.reshape(-1), minlength=256) > 0
    for side in (
        frame.instance[:BORDER],
        frame.instance[-BORDER:],
        frame.instance[:, :BORDER],
        frame.instance[:, -BORDER:],
    ):
        whole[side] = False
    whole[0] = False
    return whole


def _match_surface(
    frame: Frame, place: np.ndarray, label: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pixel at or next to each point's place that shows its surface, -1 for none; and whether all of them are
    behind it.
    """
    width = frame.depth.shape[1]
    centre = np.floor(place).astype(np.int64) @ np.array([1, width])
    at = np.where(_shows_surface(frame, centre, label, depth), centre, -1)
    asked = np.flatnonzero(at < 0)
    refuted, least = np.zeros(len(place), dtype=bool), np.full(len(asked), np.inf)
    shown = np.bincount(frame.instance.reshape(-1), minlength=256) > 0
    refuted[asked] = (label[asked] == 0) | shown[label[asked]]
    seen = frame.depth.reshape(-1)
    for beside in (-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1):
        pixel = centre[asked] + beside
        fits = _shows_surface(frame, pixel, label[asked], depth[asked])
        off = np.where(fits, np.abs(seen[pixel] - depth[asked]), np.inf)
        at[asked] = np.where(off < least, pixel, at[asked])
        least = np.minimum(off, least)
        refuted[asked] &= ~fits & ((seen[pixel] == 0) | (seen[pixel] > BEHIND * depth[asked]))
    return at, refuted


def _shows_surface(frame: Frame, pixel: np.ndarray, label: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Bool: pixels show the instance of a point, or, without instances, a surface of similar depth."""
    seen = frame.depth.reshape(-1)[pixel]
    same = (seen > 0) & (frame.instance.reshape(-1)[pixel] == label)
    return same & ((label > 0) | (np.abs(seen - depth) <= DEPTH_CHANGE * depth))


def _interpolate_vectors(
    frame: Frame, vectors: np.ndarray, place: np.ndarray, at: np.ndarray, label: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    """Vectors [N, 2] at places: bilinear interpolation over those of the four pixels that show the point's surface."""
    width, flat = frame.depth.shape[1], vectors.reshape(-1, 2)
    corner = np.floor(place - 0.5).astype(np.int64)
    share = place - 0.5 - corner
    total, weights = np.zeros_like(place), np.zeros((len(place), 1))
    for beside in np.array([(0, 0), (1, 0), (0, 1), (1, 1)]):
        pixel = (corner + beside) @ np.array([1, width])
        weight = np.abs(1 - beside - share).prod(axis=1) * _shows_surface(frame, pixel, label, depth)
        total, weights = total + weight[:, None] * flat[pixel], weights + weight[:, None]
    return np.where(weights > 0.1, total / np.maximum(weights, 0.1), flat[at])
