"""Deformation of a soft body over time."""

import numpy as np

from phys4d.simulation.mujoco_scenes.rollout import Rollout


def strain(rollout: Rollout, flex: str) -> np.ndarray:
    """Deformation [T] in each frame: largest principal strain of the best affine fit, relative to the first frame."""
    place = rollout.flexes[flex]
    start = place[0] - place[0].mean(axis=0)
    now = place - place.mean(axis=1, keepdims=True)
    gradient = np.linalg.pinv(start) @ now
    return np.abs(np.linalg.svd(gradient, compute_uv=False) - 1).max(axis=1)


def first_touch(rollout: Rollout) -> int:
    """The first frame with a contact, or the number of frames if there is none."""
    touching = np.flatnonzero(rollout.deepest > 0)
    return int(touching[0]) if len(touching) else rollout.frames
