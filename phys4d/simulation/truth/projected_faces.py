"""Faces in the image plane: where each may be seen, and its depth there, as linear functions."""

import numpy as np

from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.rays import cross, dot

NEAREST = 0.05  # metres, least depth of a face that counts: the near plane of the picture
MARGIN = 1e-6  # pixels by which the bounds of a face are widened, far above the rounding of float64


class ProjectedFaces:
    """Some faces as the camera of a frame sees them.

    With a direction d of unit depth in the camera's axes, edges[f] @ d are the barycentric coordinates of the hit over
    its depth, and plane[f] @ d is one over the depth: homogeneous coordinates (Olano and Greer, "Triangle scan
    conversion using 2D homogeneous coordinates", 1997), valid for a face that crosses the camera's plane, too.

    corners: float64 [F, 3, 3], metres, in the camera's axes.
    numbers: int [F], of the faces, ascending; the attribute is without those behind the camera or outside the image.
    camera: of the clip.
    t: number of the frame.
    low, high: float64 [F, 2], pixels (x, y), bounds of the face's part in front of the near plane.
    edges: float64 [F, 3, 3], 1/metre. plane: float64 [F, 3], 1/metre.
    """

    def __init__(self, corners: np.ndarray, numbers: np.ndarray, camera: Camera, t: int) -> None:
        low, high = _bounds(corners, camera.intrinsics[t])
        size = np.array([camera.width, camera.height])
        inside = (high >= 0).all(axis=1) & (low <= size).all(axis=1)
        self.numbers, corners, self.low, self.high = numbers[inside], corners[inside], low[inside], high[inside]
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        edges = np.stack([cross(b, c), cross(c, a), cross(a, b)], axis=1)
        volume = dot(a, edges[:, 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            self.edges = edges / volume[:, None, None]  # not finite for a face seen exactly edge-on: never hit
            self.plane = self.edges[:, 0] + self.edges[:, 1] + self.edges[:, 2]


def _bounds(corners: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest pixel coordinates [F, 2] of the parts of faces [F, 3, 3] beyond the near plane; inf and -inf
    for none.
    """
    scale, centre = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    depth = corners[..., 2]
    beyond = depth >= NEAREST
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = corners[..., :2] / depth[..., None] * scale + centre
    low = np.where(beyond[..., None], pixel, np.inf).min(axis=1)
    high = np.where(beyond[..., None], pixel, -np.inf).max(axis=1)
    cut = np.nonzero(beyond.any(axis=1) & ~beyond.all(axis=1))[0]
    for start, end in ((0, 1), (1, 2), (2, 0)):
        p, q = corners[cut, start], corners[cut, end]
        crosses = beyond[cut, start] != beyond[cut, end]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (NEAREST - p[:, 2]) / (q[:, 2] - p[:, 2])
            point = p + share[:, None] * (q - p)
        place = point[:, :2] / NEAREST * scale + centre
        low[cut] = np.where(crosses[:, None], np.minimum(low[cut], place), low[cut])
        high[cut] = np.where(crosses[:, None], np.maximum(high[cut], place), high[cut])
    return low - MARGIN, high + MARGIN
