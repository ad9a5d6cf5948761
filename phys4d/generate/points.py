"""Coloured point clouds as PLY files, one for each frame, which MeshLab, Blender and Open3D read."""

import math

import numpy as np
import torch

from phys4d.kernels.geometry.unproject import unproject

_POINT = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def ply(points: np.ndarray, colours: np.ndarray) -> bytes:
    """A binary little-endian PLY of points float32 [N, 3] in metres and their colours uint8 [N, 3]."""
    names = "".join(f"property float {name}\n" for name in "xyz")
    names += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    head = (
        "ply\nformat binary_little_endian 1.0\ncomment metres; x right, y down, z forward from the camera\n"
        f"element vertex {len(points)}\n{names}end_header\n"
    )
    rows = np.empty(len(points), _POINT)
    rows["xyz"], rows["rgb"] = points, colours
    return head.encode("ascii") + rows.tobytes()


def lifted(
    video: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray, most: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points and colours of every frame, in the camera's axes.

    video: uint8 [T, H, W, 3]. depth: [T, H, W], metres; pixels that are not finite or not above 0 are left out.
    intrinsics: [3, 3] in pixels. most: points of a frame, on a regular grid of pixels.
    """
    frames, height, width = depth.shape
    step = max(1, math.ceil(math.sqrt(height * width / most)))
    cameras = torch.as_tensor(intrinsics, dtype=torch.float32).expand(1, frames, 3, 3)
    points = unproject(torch.from_numpy(np.ascontiguousarray(depth, np.float32))[None], cameras)[0].numpy()
    seen = np.isfinite(depth) & (depth > 0)
    every = (slice(step // 2, None, step),) * 2
    return [(points[t][every][seen[t][every]], video[t][every][seen[t][every]]) for t in range(frames)]
