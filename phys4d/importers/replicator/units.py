"""Checks that distances are in metres, by the camera's motion, its far clipping plane and the range of depth.

A camera moving by a known distance determines the scale of points at rest: nearer points move farther in the image and
    change their depth more. The unit in UNITS is accepted whose prediction fits the recorded vectors or depths several
    times better than that of any other unit.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from phys4d.importers.replicator.frames import Frame, larger_component, pixel_centres, predict_at_rest, sample

UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
PAIRS = 4  # pairs of frames that are examined
MIN_RATIO = 3.0  # misfit of every other unit over that of the best unit
MIN_MISFIT_PIXELS = 0.02  # misfits of vectors below this do not distinguish units
MIN_MISFIT_DEPTH = 1e-5  # relative misfits of depth below this do not distinguish units
INDOORS = 100.0  # metres: if 99 % of the pixels are farther, the unit must be stated
MAX_SHARE_BEHIND_FAR = 0.01  # largest share of pixels behind the far clipping plane


def unit_mismatch(frames: Sequence[Frame], vectors: Callable[[int], np.ndarray] | None) -> str | None:
    """Why the depth of a clip is not, or may not be, in metres; None if nothing contradicts metres.

    frames: with depth in the unit to be checked.
    vectors: function of t > 0 that returns the vectors of frame t, float [H, W, 2]; None without vectors.
    """
    found = _best_unit(frames, vectors)
    if found and found != "metres":
        return f"the motion of the camera fits {found}, not metres"
    surface = np.concatenate([frame.depth[frame.depth > 0] for frame in frames])
    far = max(frame.view.far for frame in frames)
    if surface.size and np.mean(surface > far * (1 + 1e-3)) > MAX_SHARE_BEHIND_FAR:
        return f"of which {np.mean(surface > far):.0%} is behind the far clipping plane of the camera ({far:.4g} m)"
    if found is None and surface.size and np.quantile(surface, 0.01) > INDOORS:
        return f"with next to nothing nearer than {INDOORS:g} m"
    return None


def _best_unit(frames: Sequence[Frame], vectors: Callable[[int], np.ndarray] | None) -> str | None:
    """The unit in which depth fits the camera's motion; None if the camera does not move or several units fit."""
    moving = [t for t in range(1, len(frames)) if (_position(frames[t - 1]) != _position(frames[t])).any()]
    asked = [moving[i] for i in np.unique(np.linspace(0, len(moving) - 1, PAIRS).round().astype(int))] if moving else []
    if not asked:
        return None
    pairs = [(frames[t - 1], frames[t]) for t in asked]
    found = [_clear_minimum(np.mean([_depth_misfits(*pair) for pair in pairs], axis=0), MIN_MISFIT_DEPTH)]
    if vectors is not None:
        misfits = [_vector_misfits(*pair, vectors(t)) for t, pair in zip(asked, pairs, strict=True)]
        found.append(_clear_minimum(np.mean(misfits, axis=0), MIN_MISFIT_PIXELS))
    said = [unit for unit in found if unit]
    return next((unit for unit in said if unit != "metres"), said[0] if said else None)


def _position(frame: Frame) -> np.ndarray:
    return frame.view.camera_to_world[:3, 3]


def _clear_minimum(misfits: np.ndarray, least: float) -> str | None:
    """The unit with the smallest misfit, if all other misfits are large and several times larger."""
    order = np.argsort(misfits)
    second = misfits[order[1]]
    return list(UNITS)[order[0]] if second > least and second > MIN_RATIO * misfits[order[0]] else None


def _scaled(current: Frame, following: Frame, scale: float) -> tuple[Frame, Frame]:
    return replace(current, depth=current.depth * scale), replace(following, depth=following.depth * scale)


def _vector_misfits(current: Frame, following: Frame, vectors: np.ndarray) -> np.ndarray:
    """Median distance in pixels between the vectors and those of a world at rest, for each unit."""
    used = (following.depth > 0) & np.isfinite(vectors).all(axis=-1)
    misfits = []
    for scale in UNITS.values():
        rest = predict_at_rest(*_scaled(current, following, scale))
        off = larger_component(np.abs(pixel_centres(*current.depth.shape) + vectors - rest.place))
        misfits.append(_median(np.where(rest.depth > 0, off, np.inf)[used]))
    return np.array(misfits)


def _depth_misfits(current: Frame, following: Frame) -> np.ndarray:
    """Median relative difference between the depth of a resting point and the depth seen at its place, for each unit.
    """
    misfits = []
    for scale in UNITS.values():
        before, after = _scaled(current, following, scale)
        rest = predict_at_rest(before, after)
        place = np.where(rest.depth[..., None] > 0, rest.place, -1.0).reshape(-1, 1, 2)
        seen, sure = (values.reshape(rest.depth.shape) for values in sample(before, place))
        off = np.abs(seen[sure] / rest.depth[sure] - 1)
        misfits.append(_median(off) if sure.mean() > 0.01 else np.inf)
    return np.array(misfits)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.inf
