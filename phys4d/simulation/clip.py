"""One clip: pictures and truth of a mesh sequence."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.picture.raster import Rasteriser
from phys4d.simulation.scene import Light
from phys4d.simulation.stage.camera import Camera
from phys4d.simulation.truth.surface import MOVING, landing, surface
from phys4d.simulation.truth.visibility import visible

QUANTISATION: dict[str, Literal["inverse16", "linear16"]] = {"depth": "inverse16", "motion": "linear16"}


@dataclass(frozen=True)
class Truth:
    """Exact geometry of a clip, float64 before storage.

    depth: float64 [T, H, W] metres, 0 where there is no surface. depth_valid: bool [T, H, W].
    motion: float64 [3, T-1, H, W] (du px, dv px, dz m). flow_valid, dz_valid: bool [T-1, H, W].
    visible: bool [T-1, H, W], still seen at t+1. moving: bool [T-1, H, W], by more than MOVING in the world.
    instance: uint8 [T, H, W], 0 where there is no surface.
    """

    depth: np.ndarray
    motion: np.ndarray
    depth_valid: np.ndarray
    flow_valid: np.ndarray
    dz_valid: np.ndarray
    visible: np.ndarray
    moving: np.ndarray
    instance: np.ndarray

    def stored(self) -> dict[str, np.ndarray]:
        """The arrays as a dataset holds them: float32 for depth and motion (see QUANTISATION)."""
        arrays = dict(vars(self))
        return arrays | {"depth": self.depth.astype(np.float32), "motion": self.motion.astype(np.float32)}


def render(meshes: MeshSequence, camera: Camera, light: Light, raster: Rasteriser) -> np.ndarray:
    """The video, uint8 [T, H, W, 3]."""
    with raster.load(meshes) as loaded:
        return loaded.pictures(camera, light)


def measure(meshes: MeshSequence, camera: Camera, raster: Rasteriser) -> Truth:
    """The truth of every frame; rays and distances in float64."""
    frames, size = meshes.frames, (camera.height, camera.width)
    depth, instance = np.zeros((frames, *size)), np.zeros((frames, *size), dtype=np.uint8)
    motion = np.zeros((3, frames - 1, *size))
    depth_valid = np.zeros((frames, *size), dtype=bool)
    flow_valid, seen_next, moving = (np.zeros((frames - 1, *size), dtype=bool) for _ in range(3))
    with raster.load(meshes) as loaded:
        face_ids = [loaded.face_ids(t, camera) for t in range(frames)]
    for t in range(frames):
        seen = surface(face_ids[t], meshes, camera, t)
        at = (t, seen.row, seen.column)
        depth[at], depth_valid[at], instance[at] = seen.depth, True, meshes.instance[seen.face]
        if t == frames - 1:
            break
        landed = landing(seen, meshes, camera, t)
        start = np.stack([seen.column + 0.5, seen.row + 0.5], axis=1)
        change = np.concatenate([landed.pixel - start, (landed.depth - seen.depth)[:, None]], axis=1)
        motion[:, *at] = np.where(landed.ahead[:, None], change, 0).T
        flow_valid[at], moving[at] = landed.ahead, landed.displacement > MOVING
        seen_next[at] = visible(seen, landed, meshes, camera, t)
    return Truth(depth, motion, depth_valid, flow_valid, flow_valid.copy(), seen_next, moving, instance)
