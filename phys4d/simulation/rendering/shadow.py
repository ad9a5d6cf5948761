"""The sun's orthographic camera, which draws the shadow map."""

import numpy as np

from phys4d.simulation.scenery.camera import look_at

SHADOW_HALF_WIDTH = 1.8
SHADOW_DISTANCE = 4.0


def to_shadow(sun: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """World to clip space of the sun's orthographic camera, [4, 4], which covers the scene around `centre`."""
    pose = look_at(centre + sun * SHADOW_DISTANCE, centre)
    rotation = pose[:3, :3].T
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = rotation, -rotation @ pose[:3, 3]
    box = np.diag([1 / SHADOW_HALF_WIDTH, 1 / SHADOW_HALF_WIDTH, 1 / SHADOW_DISTANCE, 1.0])
    box[2, 3] = -1
    return box @ view
