"""3D boxes of the things of a clip over time."""

from collections.abc import Mapping

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence, Track
from phys4d.simulation.scene import WALL


def boxes(meshes: MeshSequence, poses: Mapping[int, Track]) -> dict[str, np.ndarray]:
    """The smallest box around the vertices of each thing but floor, walls and ceiling, seen or not.

    The box of a rigid thing is along the axes of its pose and keeps its size; others are along the world's axes.

    meshes: of the clip.
    poses: instance -> pose over T frames, or over one if it stands still.

    Returns arrays as `engine.data.clip.extras.EXTRAS` defines them, K things: `box_instance` uint8 [K], `box_rigid`
    bool [K], and over T frames `box_centre`, `box_size` float32 [T, K, 3] and `box_quaternion` float32 [T, K, 4].
    """
    names = np.unique(meshes.instance[meshes.instance > WALL])
    centre, size = (np.zeros((meshes.frames, len(names), 3), np.float32) for _ in range(2))
    quaternion = np.zeros((meshes.frames, len(names), 4), np.float32)
    for number, name in enumerate(names):
        corners = np.unique(meshes.faces[meshes.instance == name])
        pose = poses.get(int(name))
        if pose is None:
            points = meshes.vertices[:, corners]
            low, high = points.min(axis=1), points.max(axis=1)
            centre[:, number], size[:, number] = (low + high) / 2, high - low
            quaternion[:, number] = (1, 0, 0, 0)
        else:
            low, high = meshes.rest[corners].min(axis=0), meshes.rest[corners].max(axis=0)
            centre[:, number] = pose.apply((low + high)[None] / 2)[:, 0]
            size[:, number], quaternion[:, number] = high - low, pose.quaternion
    rigid = np.array([int(name) in poses for name in names], dtype=bool)
    return {
        "box_instance": names, "box_rigid": rigid, "box_centre": centre, "box_size": size, "box_quaternion": quaternion
    }  # fmt: skip
