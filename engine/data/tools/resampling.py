"""The labels of a clip at another size or rate: each array as its kind allows, or a refusal.

Masks, instances and motion are taken from the nearest pixel, since a mean of two surfaces lies on neither; du and dv
are scaled. Depth is interpolated as inverse depth, which is linear in the picture of a plane, where the four pixels
around a place are of one surface; elsewhere, and where it is disparity up to scale and shift, it is that of the nearest
pixel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phys4d.engine.data.clip.schema import ARRAYS, METRIC
from phys4d.engine.data.tools.framing import Framing

_ONE_SURFACE = 1.1  # largest ratio of the depths of four neighbours of one surface


def resized(
    arrays: Mapping[str, np.ndarray], framing: Framing, depth_kind: str = METRIC
) -> dict[str, np.ndarray]:
    """The arrays of a clip as `framing` shows it.

    arrays: as `schema.ARRAYS` says, with the height and width of `framing.source`.
    framing: the part of the picture and its new size.
    depth_kind: of the clip.

    Raises ValueError for an array without a rule.
    """
    if unknown := sorted(arrays.keys() - ARRAYS.keys()):
        raise ValueError(f"holds the array {unknown[0]!r}, of which is not known how it follows a change of size")
    rows, columns = framing.centres()
    nearest = np.ix_(_nearest(rows, framing.source[0]), _nearest(columns, framing.source[1]))
    done = {name: np.ascontiguousarray(array[..., nearest[0], nearest[1]]) for name, array in arrays.items()}
    if "motion" in done:
        done["motion"][:2] *= np.float32(framing.scale)
    if "depth" in done and depth_kind == METRIC:
        valid = arrays.get("depth_valid", arrays["depth"] > 0)
        for t, depth in enumerate(arrays["depth"]):
            instance = arrays["instance"][t] if "instance" in arrays else None
            done["depth"][t] = _depth(depth, valid[t], instance, rows, columns, done["depth"][t])
    return done


def _depth(
    depth: np.ndarray, valid: np.ndarray, instance: np.ndarray | None, rows: np.ndarray, columns: np.ndarray,
    nearest: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """float32 [h, w]: depth at these rows and columns, `nearest` where the pixels around are not of one surface.

    rows, columns: places in pixels, whose centres are at i + 0.5.
    """
    (top, below), (left, right) = _linear(rows, depth.shape[0]), _linear(columns, depth.shape[1])
    corners = [np.ix_(row, column) for row in top for column in left]
    weights = [row[:, None] * column[None] for row in below for column in right]
    values = np.stack([depth[corner] for corner in corners]).astype(np.float64)
    whole = np.logical_and.reduce([valid[corner] for corner in corners]) & (values.min(axis=0) > 0)
    if instance is not None:
        whole &= np.logical_and.reduce([instance[corner] == instance[corners[0]] for corner in corners])
    whole &= values.max(axis=0) <= _ONE_SURFACE * values.min(axis=0)
    inverse = np.divide(1.0, values, out=np.ones_like(values), where=values > 0)
    mean = sum(weight * part for weight, part in zip(weights, inverse, strict=True))
    return np.where(whole, 1 / mean, nearest).astype(np.float32)


def _nearest(places: np.ndarray, count: int) -> np.ndarray:
    return np.clip(np.floor(places), 0, count - 1).astype(np.int64)


def _linear(places: np.ndarray, count: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Indices of the pixels before and behind each place, and their weights; beyond the outer centres they go on."""
    first = np.clip(np.floor(places - 0.5), 0, max(count - 2, 0)).astype(np.int64)
    behind = places - 0.5 - first
    return (first, np.minimum(first + 1, count - 1)), (1 - behind, behind)


def resized_meta(meta: Mapping[str, Any], framing: Framing) -> dict[str, Any]:
    """The json of a clip as `framing` shows it: its height, width and intrinsics."""
    done = dict(meta)
    if "intrinsics" in meta:
        matrices = np.asarray(meta["intrinsics"], dtype=np.float64)
        matrices[:, 0, 2] -= framing.box[0]
        matrices[:, 1, 2] -= framing.box[1]
        matrices[:, :2] *= framing.scale
        done["intrinsics"] = matrices.tolist()
    for name, side in zip(("height", "width"), framing.size, strict=True):
        if name in meta:
            done[name] = side
    return done


def picked(arrays: Mapping[str, np.ndarray], frames: Sequence[int]) -> dict[str, np.ndarray]:
    """These frames of the arrays of a clip.

    Raises ValueError for an array that holds from one frame to the next, or one without a rule.
    """
    for name in arrays:
        if name not in ARRAYS:
            raise ValueError(f"holds the array {name!r}, of which is not known how it follows a change of rate")
        if ARRAYS[name].frames:
            raise ValueError(f"holds the array {name!r}, which is from one frame to the next: its rate cannot change")
    return {name: np.ascontiguousarray(array[list(frames)]) for name, array in arrays.items()}


def picked_meta(meta: Mapping[str, Any], frames: Sequence[int], fps: float) -> dict[str, Any]:
    """The json of a clip at a lower rate: only these values of the fields that have one for each frame."""
    done = dict(meta)
    for name in ("intrinsics", "camera_to_world"):
        if name in meta:
            done[name] = [meta[name][t] for t in frames]
    if isinstance(tracks := meta.get("tracks"), dict):
        done["tracks"] = {
            body: {name: [values[t] for t in frames] for name, values in track.items()}
            for body, track in tracks.items()
        }
    if "frames" in meta:
        done["frames"] = len(frames)
    return done | {"fps": fps}
