"""Whether motion vectors agree with what masks, depth and cameras of the same recording say.

Two checks, each of which needs no truth:

`share_at_rest`: before a camera that moves, the vectors of what rests follow from the camera and the depth.

`evidence`: a point cannot have been where something farther away was seen. Points of a frame are followed back over a
few frames, once as if the world were at rest and once by the vectors. Rest is refuted for a point that it leads to a
place where neither its instance nor anything as near as it is seen, within one pixel. Such a point has moved; vectors
that are refuted in the same way for it, or lead out of an image that shows all of its instance, are wrong. Where the
place is hidden by something nearer, or out of the image otherwise, and in frames that do not show the instance at all,
nothing is said: objects that enter, leave, appear, are covered or turn in place give no evidence against their vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from phys4d.importers.replicator.motion import Frame, at_rest, centres, largest

CLEAR = 0.5  # pixels by which a moving camera must move a point at rest to tell whether vectors fit it
WINDOW, EVERY = 8, 4  # frames over which points are followed, from every fourth: so slow is what gives evidence
RIM = 2  # pixels along the borders: an instance that is seen there may reach farther
SURE, FAR = 4, 2.0  # a point that is explained for SURE frames and FAR pixels of way is not followed on: errors add up
DEEPER, AS_DEEP = 1.05, 0.15  # depth of what is behind a point, and by how much a surface's own may change in a frame
LEAST, MOST_WRONG = 16, 0.5  # points that count as evidence, and the share of wrong ones that is still sound
OTHER = (-1.0, 0.5)  # factors of the vectors that must not explain twice as many points of an instance as they do


@dataclass(frozen=True)
class Evidence:
    """Points that have moved, by instance, int64 [256]: how many the vectors contradict and how many they explain.

    others: int64 [2, 256], how many the vectors would explain if they were multiplied by each of OTHER.
    """

    wrong: np.ndarray
    explained: np.ndarray
    others: np.ndarray

    def __add__(self, other: "Evidence") -> "Evidence":
        return Evidence(self.wrong + other.wrong, self.explained + other.explained, self.others + other.others)

    def contradicted(self) -> list[tuple[int, int, int]]:
        """The instances whose vectors cannot be right, the worst first: (instance, points explained, points moved).

        Instance 0 is all that has no instance.
        """
        share = self.wrong / np.maximum(self.wrong + self.explained, 1)
        others = self.others.max(axis=0)
        others[0] = 0  # without instances a wrong place is too easily as deep as the right one
        less = (others >= LEAST) & (2 * self.explained < others)
        found = np.flatnonzero((self.wrong >= LEAST) & (share > MOST_WRONG) | less)
        moved = np.maximum(self.wrong + self.explained, others)
        return sorted(((int(i), int(self.explained[i]), int(moved[i])) for i in found), key=lambda row: row[1] - row[2])


NO_EVIDENCE = Evidence(*(np.zeros(shape, dtype=np.int64) for shape in (256, 256, (len(OTHER), 256))))


def share_at_rest(now: Frame, then: Frame, vectors: np.ndarray, tolerance: float) -> tuple[int, int]:
    """How many vectors fit a world at rest, of how many: pixels that the camera moves by more than CLEAR if at rest."""
    expected = at_rest(now, then).place - centres(*now.depth.shape)
    tested = (then.depth > 0) & (largest(np.abs(expected)) > CLEAR)
    fits = largest(np.abs(vectors - expected)) <= tolerance
    return int((fits & tested).sum()), int(tested.sum())


def evidence(frames: Sequence[Frame], vectors: Sequence[np.ndarray]) -> Evidence:
    """What the points of the last frame say of the vectors.

    frames: two or more that follow each other. vectors: of all but the first, to the frame before: [H, W, 2] pixels.
    """
    last = frames[-1]
    asked = last.depth > 0
    if all(_same_view(frame, last) for frame in frames):
        resting = [np.zeros_like(leads) for leads in vectors]
        asked &= np.any([(f.depth != last.depth) | (f.instance != last.instance) for f in frames[:-1]], axis=0)
    else:
        resting = [at_rest(*pair).place - centres(*last.depth.shape) for pair in pairwise(frames)]
    moved, _ = _follow(frames, resting, np.flatnonzero(asked))
    wrong, explained = _follow(frames, vectors, moved)
    others = [_follow(frames, [factor * leads for leads in vectors], moved)[1] for factor in OTHER]
    counts = [np.bincount(last.instance.reshape(-1)[pixels], minlength=256) for pixels in (wrong, explained, *others)]
    return Evidence(counts[0], counts[1], np.stack(counts[2:]))


def _same_view(one: Frame, other: Frame) -> bool:
    fields = ("camera_to_world", "intrinsics")
    return all(np.array_equal(getattr(one.view, name), getattr(other.view, name)) for name in fields)


def _follow(frames: Sequence[Frame], vectors: Sequence[np.ndarray], pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of these pixels of the last frame the vectors lead to where they cannot have been, and which they explain.

    A point's depth is that of the surface found at its place, so that it may change from frame to frame.
    """
    place, way = centres(*frames[-1].depth.shape).reshape(-1, 2)[pixel], np.zeros(len(pixel))
    label, depth = (field.reshape(-1)[pixel] for field in (frames[-1].instance, frames[-1].depth))
    step = vectors[-1].reshape(-1, 2)[pixel]
    height, width = frames[-1].depth.shape
    wrong, explained = [], []
    for back, frame in enumerate(reversed(frames[:-1]), 1):
        place, way = place + step, way + largest(np.abs(step))
        inside = ((place >= 1) & (place < (width - 1, height - 1))).all(axis=1)
        outside = ((place < 0) | (place > (width, height))).any(axis=1) & np.isfinite(place).all(axis=1)
        wrong.append(pixel[outside & _whole(frame)[label]])
        pixel, way, place, label, depth = (a[inside] for a in (pixel, way, place, label, depth))
        at, refuted = _found(frame, place, label, depth)
        wrong.append(pixel[refuted])
        gone = (way > FAR) & (back >= SURE)
        explained.append(pixel[(at >= 0) & gone])
        on = (at >= 0) & ~gone
        pixel, way, place, label, at = (a[on] for a in (pixel, way, place, label, at))
        depth = frame.depth.reshape(-1)[at]
        if back < len(vectors):
            step = _between(frame, vectors[-1 - back], place, at, label, depth)
    return np.concatenate(wrong), np.concatenate([*explained, pixel])


def _whole(frame: Frame) -> np.ndarray:
    """Bool [256]: instances that the frame shows, and not at its borders."""
    whole = np.bincount(frame.instance.reshape(-1), minlength=256) > 0
    for side in (frame.instance[:RIM], frame.instance[-RIM:], frame.instance[:, :RIM], frame.instance[:, -RIM:]):
        whole[side] = False
    whole[0] = False
    return whole


def _found(frame: Frame, place: np.ndarray, label: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixel at a point's place, or beside it, that shows its surface, -1 for none; whether all there is farther."""
    width = frame.depth.shape[1]
    centre = np.floor(place).astype(np.int64) @ np.array([1, width])
    at = np.where(_fits(frame, centre, label, depth), centre, -1)
    asked = np.flatnonzero(at < 0)
    refuted, least = np.zeros(len(place), dtype=bool), np.full(len(asked), np.inf)
    shown = np.bincount(frame.instance.reshape(-1), minlength=256) > 0
    refuted[asked] = (label[asked] == 0) | shown[label[asked]]
    seen = frame.depth.reshape(-1)
    for beside in (-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1):
        pixel = centre[asked] + beside
        fits = _fits(frame, pixel, label[asked], depth[asked])
        off = np.where(fits, np.abs(seen[pixel] - depth[asked]), np.inf)
        at[asked] = np.where(off < least, pixel, at[asked])
        least = np.minimum(off, least)
        refuted[asked] &= ~fits & ((seen[pixel] == 0) | (seen[pixel] > DEEPER * depth[asked]))
    return at, refuted


def _fits(frame: Frame, pixel: np.ndarray, label: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Whether pixels show the instance of a point, or a surface as deep where there are no instances."""
    seen = frame.depth.reshape(-1)[pixel]
    same = (seen > 0) & (frame.instance.reshape(-1)[pixel] == label)
    return same & ((label > 0) | (np.abs(seen - depth) <= AS_DEEP * depth))


def _between(
    frame: Frame, vectors: np.ndarray, place: np.ndarray, at: np.ndarray, label: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    """Vectors [N, 2] at places: the mean of the four pixel centres around, of those that show the point's surface."""
    width, flat = frame.depth.shape[1], vectors.reshape(-1, 2)
    corner = np.floor(place - 0.5).astype(np.int64)
    share = place - 0.5 - corner
    total, weights = np.zeros_like(place), np.zeros((len(place), 1))
    for beside in np.array([(0, 0), (1, 0), (0, 1), (1, 1)]):
        pixel = (corner + beside) @ np.array([1, width])
        weight = np.abs(1 - beside - share).prod(axis=1) * _fits(frame, pixel, label, depth)
        total, weights = total + weight[:, None] * flat[pixel], weights + weight[:, None]
    return np.where(weights > 0.1, total / np.maximum(weights, 0.1), flat[at])
