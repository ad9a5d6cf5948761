"""Motion from each frame back to the frame before: the forward motion of the clip in reversed time."""

from dataclasses import replace

import numpy as np

from phys4d.simulation.clip import Truth, measure
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera


def backward_flow(meshes: MeshSequence, camera: Camera, truth: Truth) -> dict[str, np.ndarray]:
    """Motion from frame t + 1 to frame t, by the same rule as the forward motion; T - 1 slices.

    meshes, camera: of the clip.
    truth: of the clip; where depth is not valid, behind smoke, nothing is valid here, too.

    Returns `backward_motion` float32 [3, T-1, H, W], (du px, dv px, dz m), and bool [T-1, H, W] `backward_valid` and
    `backward_visible`; slice t belongs to the pixels of frame t + 1.
    """
    colour = meshes.colour[::-1] if meshes.colour.ndim == 3 else meshes.colour
    turned = replace(meshes, vertices=meshes.vertices[::-1], colour=colour, tracks={}, smoke=None)
    eyes = replace(camera, intrinsics=camera.intrinsics[::-1], camera_to_world=camera.camera_to_world[::-1])
    back = measure(turned, eyes, np.float32)
    motion = back.motion[:, ::-1]
    valid = back.flow_valid[::-1] & truth.depth_valid[1:]
    visible = back.visible[::-1] & valid
    if meshes.smoke is not None:
        row, column = np.mgrid[: camera.height, : camera.width] + 0.5
        x = np.clip(np.floor(column + motion[0]), 0, camera.width - 1).astype(int)
        y = np.clip(np.floor(row + motion[1]), 0, camera.height - 1).astype(int)
        visible &= truth.depth_valid[np.arange(len(visible))[:, None, None], y, x]
    return {"backward_motion": np.ascontiguousarray(motion), "backward_valid": valid, "backward_visible": visible}
