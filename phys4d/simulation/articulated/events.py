"""How far parts have turned and moved, and when: what tells whether a caption's event shows."""

import numpy as np

from phys4d.simulation.mesh_sequence import Track, rotation


def turns(track: Track) -> np.ndarray:
    """Radians that a part has turned up to each frame [T], all turns added up."""
    cosine = np.abs((track.quaternion[1:] * track.quaternion[:-1]).sum(axis=1))
    return np.concatenate([[0.0], np.cumsum(2 * np.arccos(np.clip(cosine, 0, 1)))])


def angle(track: Track, axis: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """Radians [T] between where a direction of the part's own axes points and where it pointed first."""
    pointing = np.stack([rotation(q) @ np.asarray(axis) for q in track.quaternion])
    return np.arccos(np.clip(pointing @ pointing[0], -1, 1))
