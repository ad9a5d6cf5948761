"""The face that is hit first along the ray through each place of an image, in float64."""

import numpy as np
import torch

from phys4d.kernels import native
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.projected_faces import NEAREST, ProjectedFaces
from phys4d.simulation.truth.query_grid import QueryGrid


def first_faces(
    corners: np.ndarray, numbers: np.ndarray, camera: Camera, t: int, *, pixel: np.ndarray, limit: np.ndarray,
    face: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Number of the nearest of the faces at each place, int64 [N]; `face` where none is nearer than `limit`.

    Of faces that are equally near, to 1e-12, that with the lowest number counts. Native code computes this where it was
    built, `QueryGrid` elsewhere, with the same results.

    corners: float64 [F, 3, 3], metres, in the camera's axes, see `in_camera_axes`.
    numbers: int64 [F], of the faces, ascending.
    camera: of the clip.
    t: number of the frame.
    pixel: float64 [N, 2], places in pixels, inside the image.
    limit: float64 [N], depth in metres beyond which no face counts; inf for none.
    face: int64 [N], the face at that depth, -1 for none.
    """
    inverse, face = 1 / limit, face.astype(np.int64)
    if not native.compiled_for("phys4d::native_first_faces", "cpu"):
        grid = QueryGrid(pixel, inverse, face, camera, t)
        return grid.first_faces(ProjectedFaces(corners, numbers, camera, t))
    arrays = (corners.reshape(-1, 9), numbers, pixel, camera.intrinsics[t])
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    place = (torch.from_numpy(inverse), torch.from_numpy(face))
    torch.ops.phys4d.native_first_faces(*tensors, camera.height, camera.width, NEAREST, *place)
    return face


def in_camera_axes(vertices: np.ndarray, camera: Camera, t: int) -> np.ndarray:
    """World positions [V, 3] relative to the camera of frame t, in its axes: right, down, forward; metres."""
    return (vertices - camera.origin(t)) @ camera.camera_to_world[t, :3, :3]
