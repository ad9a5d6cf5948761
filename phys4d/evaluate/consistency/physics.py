"""Physics of rigid bodies read off a 4D clip: free fall, collisions and penetration, beside what the simulator did.

A body's centre is carried by the rigid motion of its visible surface points since frame 0. World axes, z up, the floor
at z = 0; metres, seconds, kilograms. All functions are of one clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phys4d.kernels.geometry import umeyama

LEAST_POINTS = 8  # of a rigid motion: with less, rounding of depth turns the body
FALLING = 0.05  # share of g by which the true acceleration may be off in free fall
HIT = 0.2  # m/s in one frame, least change of both bodies' velocity in a collision, from standing and from falling on


@dataclass(frozen=True)
class RigidBody:
    """A body as the simulator knows it.

    position: float64 [T, 3], its centre. mass: kg. radius: of the largest sphere around the centre that it contains.
    """

    position: np.ndarray
    mass: float
    radius: float


class Centres(NamedTuple):
    """Centre of a body as a clip shows it: position float64 [T, 3], and known bool [T], whether it can be read."""

    position: np.ndarray
    known: np.ndarray


def centres(points: Tensor, valid: Tensor, start: np.ndarray) -> Centres:
    """Carries a centre by the rigid motion of least squares from the points of frame 0 to those of each frame.

    points: [T, N, 3], tracks of the body's surface, world axes.
    valid: bool [T, N].
    start: [3], the centre in frame 0.
    """
    both = valid & valid[0]
    first = points[:1].expand_as(points)
    moved = umeyama(first, points, both)(torch.from_numpy(start).expand(len(points), 1, 3))[:, 0]
    return Centres(moved.numpy(), (both.sum(dim=1) >= LEAST_POINTS).numpy())


def fall_acceleration(body: RigidBody, read: Centres, fps: float, gravity: float) -> np.ndarray | None:
    """Acceleration in m/s^2, [3], of a parabola of least squares through the read centres of the longest free fall.

    The true centre says when the body falls: where its second difference is (0, 0, -g) within 5 % of g. None for a body
    that does not fall freely, or of which fewer than four centres of the fall are known.
    """
    acceleration = np.diff(body.position, n=2, axis=0) * fps**2
    falls = np.linalg.norm(acceleration - np.array([0, 0, -gravity]), axis=1) < FALLING * gravity
    first, length = _longest(falls)
    frames = np.arange(first, first + length + 2)  # with the neighbours of the second differences
    frames = frames[read.known[frames]] if length else frames[:0]
    if len(frames) < 4:
        return None
    time = (frames - frames[0]) / fps
    terms = np.stack([np.ones_like(time), time, time**2 / 2], axis=1)
    return np.linalg.lstsq(terms, read.position[frames], rcond=None)[0][2]


class Collision(NamedTuple):
    """Errors of a collision of two bodies, 0 for the truth.

    momentum: length of the sum over both of m (dv - dv*), over the sum of m |dv*|: what the pair gains or loses.
    impulse: sum over both of m |dv - dv*|, over the same: 1 if nothing happens to either.
    """

    momentum: float
    impulse: float


def collision(bodies: Sequence[RigidBody], read: Sequence[Centres], fps: float, gravity: float) -> Collision | None:
    """Errors of the strongest collision of two bodies; None without one, or where its centres are not known.

    A collision is a frame in which the true velocities of both change by more than 0.2 m/s, and differ from those of
    free fall by as much. dv is the change from the mean velocity of the two frames that end before it to that of the
    two that begin behind it.
    """
    if len(bodies) != 2 or len(bodies[0].position) < 7:
        return None
    change = [np.diff(body.position, n=2, axis=0) * fps for body in bodies]
    fallen = np.array([0, 0, -gravity / fps])
    speeds = [np.minimum(*(np.linalg.norm(dv - free, axis=1) for free in (0, fallen))) for dv in change]
    hits = (speeds[0] > HIT) & (speeds[1] > HIT)
    hits[:2], hits[-2:] = False, False  # two frames before and behind
    if not hits.any():
        return None
    strength = sum(body.mass * speed for body, speed in zip(bodies, speeds, strict=True))
    hit = int(np.argmax(np.where(hits, strength, -1))) + 1
    frames = [hit - 3, hit - 1, hit + 1, hit + 3]
    if not all(centre.known[frames].all() for centre in read):
        return None
    true = [body.mass * _velocity_change(body.position[frames], fps) for body in bodies]
    off = [
        body.mass * _velocity_change(centre.position[frames], fps) - momentum
        for body, centre, momentum in zip(bodies, read, true, strict=True)
    ]
    whole = sum(np.linalg.norm(momentum) for momentum in true)
    return Collision(float(np.linalg.norm(sum(off)) / whole), float(sum(np.linalg.norm(part) for part in off) / whole))


def penetration(bodies: Sequence[RigidBody], read: Sequence[Centres]) -> float | None:
    """Mean over frames of the deepest overlap in metres of bodies with the floor and with each other, beyond the true
    one: of the largest spheres inside the bodies, which is exact for balls and too little for other shapes.

    None if the centres are known in no frame. A frame counts with the bodies that are known in it.
    """
    radii = [body.radius for body in bodies]
    depths = []
    for t in range(len(read[0].known) if read else 0):
        here = [i for i, centre in enumerate(read) if centre.known[t]]
        if here:
            found = _overlaps(radii, [centre.position[t] for centre in read], here)
            true = _overlaps(radii, [body.position[t] for body in bodies], here)
            depths.append(max(0.0, *(ours - theirs for ours, theirs in zip(found, true, strict=True))))
    return float(np.mean(depths)) if depths else None


def _overlaps(radii: Sequence[float], at: Sequence[np.ndarray], here: Sequence[int]) -> list[float]:
    """Overlap in metres of each of the spheres `here` with the floor, then of each pair of them; 0 where apart."""
    floor = [radii[i] - at[i][2] for i in here]
    pairs = [radii[i] + radii[j] - np.linalg.norm(at[i] - at[j]) for i, j in combinations(here, 2)]
    return [max(0.0, float(overlap)) for overlap in (*floor, *pairs)]


def _longest(flags: np.ndarray) -> tuple[int, int]:
    """First index and length of the longest run of true values; (0, 0) without one."""
    best, start = (0, 0), None
    for index, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = index
        elif not flag and start is not None:
            if index - start > best[1]:
                best = (start, index - start)
            start = None
    return best


def _velocity_change(positions: np.ndarray, fps: float) -> np.ndarray:
    """From positions [4, 3] two frames before, one before, one behind ... in pairs of two frames: m/s."""
    return ((positions[3] - positions[2]) - (positions[1] - positions[0])) * fps / 2
