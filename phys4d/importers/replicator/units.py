"""Whether distances are metres: what the camera's own motion, its far clipping plane and their range say.

A camera that moves by metres gives the scale of what rests: the nearer it is, the farther it goes in the image, and the
more its depth changes. Of the units in UNITS, the one counts in which this fits the recorded vectors or depths several
times better than in any other.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from phys4d.importers.replicator.motion import Frame, at_rest, centres, largest, sample

UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
PAIRS = 4  # of frames that are asked
BETTER = 3.0  # times by which one unit must fit better than the others
LEAST_PIXELS, LEAST_CHANGE = 0.02, 1e-5  # smaller misfits of vectors in pixels and of depth in its share say nothing
INDOORS = 100.0  # metres: where 99 of 100 pixels are farther, the unit is asked for
BEYOND = 0.01  # share of pixels that may lie behind the far clipping plane


def complaint(frames: Sequence[Frame], vectors: Callable[[int], np.ndarray] | None) -> str | None:
    """Why the depth of a clip is not in metres, or may not be; None where nothing speaks against it.

    frames: with depth in the unit to be judged. vectors: gives float [H, W, 2] of frame t > 0, or None without vectors.
    """
    found = _fitting(frames, vectors)
    if found and found != "metres":
        return f"the motion of the camera fits {found}, not metres"
    surface = np.concatenate([frame.depth[frame.depth > 0] for frame in frames])
    far = max(frame.view.far for frame in frames)
    if surface.size and np.mean(surface > far * (1 + 1e-3)) > BEYOND:
        return f"of which {np.mean(surface > far):.0%} is behind the far clipping plane of the camera ({far:.4g} m)"
    if found is None and surface.size and np.quantile(surface, 0.01) > INDOORS:
        return f"with next to nothing nearer than {INDOORS:g} m"
    return None


def _fitting(frames: Sequence[Frame], vectors: Callable[[int], np.ndarray] | None) -> str | None:
    """The unit in which depth fits the camera's motion; None where the camera stands still or several fit."""
    moving = [t for t in range(1, len(frames)) if (_position(frames[t - 1]) != _position(frames[t])).any()]
    asked = [moving[i] for i in np.unique(np.linspace(0, len(moving) - 1, PAIRS).round().astype(int))] if moving else []
    if not asked:
        return None
    pairs = [(frames[t - 1], frames[t]) for t in asked]
    found = [_best(np.mean([_depth_misfits(*pair) for pair in pairs], axis=0), LEAST_CHANGE)]
    if vectors is not None:
        misfits = [_vector_misfits(*pair, vectors(t)) for t, pair in zip(asked, pairs, strict=True)]
        found.append(_best(np.mean(misfits, axis=0), LEAST_PIXELS))
    said = [unit for unit in found if unit]
    return next((unit for unit in said if unit != "metres"), said[0] if said else None)


def _position(frame: Frame) -> np.ndarray:
    return frame.view.camera_to_world[:3, 3]


def _best(misfits: np.ndarray, least: float) -> str | None:
    """The unit of the smallest misfit, if all others are large and several times larger."""
    order = np.argsort(misfits)
    second = misfits[order[1]]
    return list(UNITS)[order[0]] if second > least and second > BETTER * misfits[order[0]] else None


def _scaled(now: Frame, then: Frame, scale: float) -> tuple[Frame, Frame]:
    return replace(now, depth=now.depth * scale), replace(then, depth=then.depth * scale)


def _vector_misfits(now: Frame, then: Frame, vectors: np.ndarray) -> np.ndarray:
    """For each unit the median distance in pixels between vectors and those of a world at rest."""
    used = (then.depth > 0) & np.isfinite(vectors).all(axis=-1)
    misfits = []
    for scale in UNITS.values():
        rest = at_rest(*_scaled(now, then, scale))
        off = largest(np.abs(centres(*now.depth.shape) + vectors - rest.place))
        misfits.append(_median(np.where(rest.depth > 0, off, np.inf)[used]))
    return np.array(misfits)


def _depth_misfits(now: Frame, then: Frame) -> np.ndarray:
    """For each unit the median share by which the depth seen where a resting point was differs from its own there."""
    misfits = []
    for scale in UNITS.values():
        before, after = _scaled(now, then, scale)
        rest = at_rest(before, after)
        place = np.where(rest.depth[..., None] > 0, rest.place, -1.0).reshape(-1, 1, 2)
        seen, sure = (values.reshape(rest.depth.shape) for values in sample(before, place))
        off = np.abs(seen[sure] / rest.depth[sure] - 1)
        misfits.append(_median(off) if sure.mean() > 0.01 else np.inf)
    return np.array(misfits)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.inf
