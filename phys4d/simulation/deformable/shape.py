"""What shape a soft body has while it plays."""

import numpy as np

from phys4d.simulation.world.play import Play


def strain(play: Play, flex: str) -> np.ndarray:
    """How much the body is deformed in each frame [T]: the largest principal strain of its best affine fit.

    Rest is the first frame.
    """
    place = play.flexes[flex]
    start = place[0] - place[0].mean(axis=0)
    now = place - place.mean(axis=1, keepdims=True)
    gradient = np.linalg.pinv(start) @ now
    return np.abs(np.linalg.svd(gradient, compute_uv=False) - 1).max(axis=1)


def first_touch(play: Play) -> int:
    """The first frame in which there is a contact, or the number of frames."""
    touching = np.flatnonzero(play.deepest > 0)
    return int(touching[0]) if len(touching) else play.frames
