"""Whether surface points of frame t are visible in frame t + 1: exact, in float64."""

import numpy as np

from phys4d.simulation.truth.first_faces import first_faces
from phys4d.simulation.truth.surface import Landing, SurfaceFinder

TOLERANCE = 1e-9  # of a point's depth, by which a face must be nearer to hide it


def visible(landed: Landing, finder: SurfaceFinder, t: int) -> np.ndarray:
    """Bool [N]: points of frame t that land inside the image of frame t + 1 without a surface in front of them.

    In front means nearer by more than TOLERANCE of the point's depth.

    landed: the points in frame t + 1.
    finder: of the clip.
    t: number of the frame.
    """
    camera = finder.camera
    result = landed.ahead & (landed.pixel >= 0).all(axis=1)
    result &= (landed.pixel[:, 0] <= camera.width) & (landed.pixel[:, 1] <= camera.height)
    which = np.nonzero(result)[0]
    pixel, limit = landed.pixel[which], landed.depth[which] * (1 - TOLERANCE)
    for numbers, corners in ((finder.moving, finder.moving_corners(t + 1)), (finder.at_rest, finder.still_corners)):
        nearer = first_faces(
            corners, numbers, camera, t + 1, pixel=pixel, limit=limit, face=np.full(len(pixel), -1)
        )
        free = nearer < 0
        which, pixel, limit = which[free], pixel[free], limit[free]
    result[:] = False
    result[which] = True
    return result
