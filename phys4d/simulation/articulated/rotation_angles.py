"""Rotation of a part over time, for checks of a caption's event."""

import numpy as np

from phys4d.simulation.mesh_sequence import Track, rotation


def accumulated_rotation(track: Track) -> np.ndarray:
    """Radians of rotation accumulated up to each frame, [T]."""
    cosine = np.abs((track.quaternion[1:] * track.quaternion[:-1]).sum(axis=1))
    return np.concatenate([[0.0], np.cumsum(2 * np.arccos(np.clip(cosine, 0, 1)))])


def angle_from_start(track: Track, axis: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """Radians [T] between a direction of the part's own axes in each frame and in the first frame."""
    pointing = np.stack([rotation(q) @ np.asarray(axis) for q in track.quaternion])
    return np.arccos(np.clip(pointing @ pointing[0], -1, 1))
