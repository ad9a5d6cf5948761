"""Whether surface points are visible in a frame: exact, in float64."""

import numpy as np

from phys4d.simulation.truth.first_faces import first_faces
from phys4d.simulation.truth.surface import SurfaceFinder

TOLERANCE = 1e-9  # of a point's depth, by which a face must be nearer to hide it


def visible(pixel: np.ndarray, depth: np.ndarray, finder: SurfaceFinder, t: int) -> np.ndarray:
    """Bool [N]: points that are inside the image of frame t without a surface in front of them.

    In front means nearer by more than TOLERANCE of the point's depth.

    pixel: float64 [N, 2], pixel coordinates of the points in frame t.
    depth: float64 [N], metres, in that frame's camera; 0 behind it.
    finder: of the clip.
    t: number of the frame.
    """
    camera = finder.camera
    result = (depth > 0) & (pixel >= 0).all(axis=1)
    result &= (pixel[:, 0] <= camera.width) & (pixel[:, 1] <= camera.height)
    which = np.nonzero(result)[0]
    pixel, limit = pixel[which], depth[which] * (1 - TOLERANCE)
    for numbers, corners in ((finder.moving, finder.moving_corners(t)), (finder.at_rest, finder.still_corners)):
        nearer = first_faces(corners, numbers, camera, t, pixel=pixel, limit=limit, face=np.full(len(pixel), -1))
        free = nearer < 0
        which, pixel, limit = which[free], pixel[free], limit[free]
    result[:] = False
    result[which] = True
    return result
