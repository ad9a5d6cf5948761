"""Video and exact truth of one clip, computed from a mesh sequence."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rendering.raster import Rasteriser
from phys4d.simulation.scene import Light
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.smoke.smoke_volume import CLEAR, SmokeLayer, SmokeVolume
from phys4d.simulation.truth.surface import MOVING, Landing, Surface, SurfaceFinder, landing
from phys4d.simulation.truth.visibility import TOLERANCE, visible


@dataclass(frozen=True)
class Truth:
    """Exact geometry of a clip, computed in float64.

    depth: float64 or float32 [T, H, W], metres along the optical axis; 0 if the pixel sees no surface.
    motion: float64 or float32 [3, T-1, H, W], (du px, dv px, dz m) from frame t to t + 1; exactly 0 for points at rest
        before a static camera.
    depth_valid: bool [T, H, W].
    flow_valid, dz_valid: bool [T-1, H, W].
    visible: bool [T-1, H, W], the surface point is also visible in frame t + 1.
    moving: bool [T-1, H, W], the surface point moves by more than MOVING in the world.
    instance: uint8 [T, H, W], 0 if the pixel sees no surface.
    opacity: uint8 [T, H, W], opacity of the smoke in front of the surface, 255 = opaque; None without smoke. Pixels
        with an opacity above `CLEAR` are neither valid nor visible.
    layer: the smoke before that is stored as `opacity`.
    """

    depth: np.ndarray
    motion: np.ndarray
    depth_valid: np.ndarray
    flow_valid: np.ndarray
    dz_valid: np.ndarray
    visible: np.ndarray
    moving: np.ndarray
    instance: np.ndarray
    opacity: np.ndarray | None = None
    layer: SmokeLayer | None = None

    def stored(self) -> dict[str, np.ndarray]:
        """The arrays by name as a dataset stores them: depth and motion as float32."""
        arrays = {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        return arrays | {name: arrays[name].astype(np.float32, copy=False) for name in ("depth", "motion")}


def render(
    meshes: MeshSequence, camera: Camera, light: Light, raster: Rasteriser, truth: Truth | None = None
) -> np.ndarray:
    """Renders the video, uint8 [T, H, W, 3].

    meshes, camera, light: of the clip.
    raster: for images of the camera's size.
    truth: of the clip, if it is known; its smoke is then used.
    """
    with raster.load(meshes) as loaded:
        video = loaded.pictures(camera, light)
    return behind_smoke(meshes, camera, video, truth)


def behind_smoke(meshes: MeshSequence, camera: Camera, video: np.ndarray, truth: Truth | None = None) -> np.ndarray:
    """The video of the surfaces, uint8 [T, H, W, 3], with the clip's smoke in front, if it has any.

    meshes, camera: of the clip.
    video: is changed.
    truth: of the clip, if it is known; its smoke is then used.
    """
    if meshes.smoke is not None:
        layer = (truth or measure(meshes, camera, np.float32)).layer
        assert layer is not None
        for t in range(meshes.frames):
            video[t] = meshes.smoke.composite(video[t], layer.opacity[t], layer.brightness[t])
    return video


def measure(meshes: MeshSequence, camera: Camera, dtype: type[np.floating[Any]] = np.float64) -> Truth:
    """Measures the truth of every frame; rays and distances are computed in float64.

    meshes, camera: of the clip.
    dtype: of depth and motion: float64, or float32, as they are stored, which takes half of the memory and its time.
    """
    frames, size = meshes.frames, (camera.height, camera.width)
    depth, instance = np.zeros((frames, *size), dtype), np.zeros((frames, *size), dtype=np.uint8)
    motion = np.zeros((3, frames - 1, *size), dtype)  # what is never written takes no memory
    flow_valid, seen_next, moving = (np.zeros((frames - 1, *size), dtype=bool) for _ in range(3))
    finder = SurfaceFinder(meshes, camera)
    still = finder.still
    depth[:, still.row, still.column] = still.depth
    instance[:, still.row, still.column] = meshes.instance[still.face]
    flow_valid[:, still.row, still.column] = True
    seen, nearest = finder.surface(0), np.zeros(size)  # the depth of one frame in float64
    for t in range(frames):
        now = (t, seen.row, seen.column)
        depth[now], instance[now] = seen.depth, meshes.instance[seen.face]
        nearest[still.row, still.column] = still.depth
        nearest[seen.row, seen.column] = seen.depth
        if t == frames - 1:
            break
        after = finder.surface(t + 1)
        landed = landing(seen, meshes, camera, t)
        motion[:, *now] = _change(seen, landed)
        flow_valid[now], moving[now] = landed.ahead, landed.displacement > MOVING
        # A point at rest before a camera at rest is hidden by whatever is nearer at its own pixel.
        seen_next[t] = flow_valid[t]
        hidden = after.depth < nearest[after.row, after.column] * (1 - TOLERANCE)
        seen_next[t, after.row[hidden], after.column[hidden]] = False
        seen_next[now] = visible(landed.pixel, landed.depth, finder, t + 1)
        seen = after
    depth_valid = instance > 0
    truth = Truth(depth, motion, depth_valid, flow_valid, flow_valid.copy(), seen_next, moving, instance)
    return truth if meshes.smoke is None else _truth_through_smoke(meshes.smoke, truth, camera)


def _change(seen: Surface, landed: Landing) -> np.ndarray:
    """Motion (du, dv, dz) of surface points to the next frame, [3, N]; 0 behind the camera."""
    start = np.stack([seen.column + 0.5, seen.row + 0.5], axis=1)
    change = np.concatenate([landed.pixel - start, (landed.depth - seen.depth)[:, None]], axis=1)
    return np.where(landed.ahead[:, None], change, 0).T


def _truth_through_smoke(smoke: SmokeVolume, truth: Truth, camera: Camera) -> Truth:
    """Masks out the truth behind smoke; a point stays visible only if its pixel in frame t + 1 is clear, too."""
    depth = np.where(truth.depth_valid, truth.depth, np.inf)
    layer = smoke.layer(camera, depth)
    opacity = layer.opacity
    clear = opacity <= CLEAR
    row, column = np.mgrid[: camera.height, : camera.width]
    landing = np.floor(truth.motion[:2] + 0.5 + np.stack([column, row])[:, None])
    x, y = (np.clip(landing[i], 0, limit - 1).astype(int) for i, limit in enumerate((camera.width, camera.height)))
    still = clear[np.arange(1, len(depth))[:, None, None], y, x]
    masks = {name: getattr(truth, name) & clear[:-1] for name in ("flow_valid", "dz_valid", "moving")}
    return replace(
        truth, depth_valid=truth.depth_valid & clear, visible=truth.visible & clear[:-1] & still,
        opacity=(opacity * 255).round().astype(np.uint8), layer=layer, **masks,
    )  # fmt: skip
