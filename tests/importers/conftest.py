"""Recordings in the format of Replicator's BasicWriter, written from exact truth of the simulator."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phys4d.simulation.clip import Truth, measure, render
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.rejection_sampling import CameraMotion
from phys4d.simulation.rendering.raster import Rasteriser
from phys4d.simulation.scenery.camera import Camera

FRAMES, FPS, SIZE = 6, 12, 48
UNIT = float(np.float32(0.01))  # metersPerSceneUnit of a stage in centimetres, as camera_params print it
USD = np.diag([1.0, -1.0, -1.0, 1.0])
# Of instances, in no order.
COLOURS = {0: (0, 0, 0, 0)} | {i: (40 * i % 251, 90 + i, 255 - i, 255) for i in range(1, 60)}


@dataclass(frozen=True)
class Shot:
    """A simulated clip. vectors: float32 [T, H, W, 2] pixels, from each frame to the one before it (0 for frame 0)."""

    pictures: np.ndarray
    truth: Truth
    camera: Camera
    vectors: np.ndarray


@cache
def _rasteriser() -> Rasteriser:
    return Rasteriser(SIZE, SIZE)


@cache
def _shot(family: str, motion: CameraMotion, seed: int) -> Shot:
    """The vectors are the truth of the clip played backwards: exactly where every point was a frame before."""
    config = SimulateConfig(
        families=(family,), seed=seed, frames=FRAMES, fps=FPS, camera=motion, size=(SIZE, SIZE), clutter="none"
    )
    drawing = sample_scene(config, 0)
    scene, sequence = drawing.scene, drawing.meshes
    camera = scene.view.camera(FRAMES, SIZE, SIZE, FPS)
    back = Camera(camera.intrinsics[::-1], camera.camera_to_world[::-1], SIZE, SIZE)
    backwards = measure(replace(sequence, vertices=sequence.vertices[::-1].copy(), tracks={}), back)
    vectors = np.zeros((FRAMES, SIZE, SIZE, 2), dtype=np.float32)
    vectors[1:] = backwards.motion[:2, ::-1].transpose(1, 2, 3, 0)
    pictures = render(sequence, camera, scene.light, _rasteriser())
    return Shot(pictures, measure(sequence, camera), camera, vectors)


@pytest.fixture(scope="session")
def shot() -> Callable[[str, str, int], Shot]:
    """shot(family, "static" | "moving", seed): a clip of our simulator, made once."""
    return _shot


def camera_params(camera: Camera, t: int) -> dict[str, Any]:
    """What CameraParams says of a camera: row vectors, USD's axes, units of the scene."""
    k, (height, width) = camera.intrinsics[t], (camera.height, camera.width)
    to_world = camera.camera_to_world[t].copy()
    to_world[:3, 3] /= UNIT
    projection = np.zeros((4, 4))
    projection[0, 0], projection[1, 1] = 2 * k[0, 0] / width, 2 * k[1, 1] / height
    projection[2] = 1 - 2 * k[0, 2] / width, 2 * k[1, 2] / height - 1, 0, -1
    projection[3, 2] = 1.0
    return {
        "cameraAperture": [20.955, 15.291],
        "cameraModel": "pinhole",
        "cameraFocalLength": 20.955 * k[0, 0] / width,
        "cameraProjection": projection.ravel().tolist(),
        "cameraViewTransform": np.linalg.inv(to_world @ USD).T.ravel().tolist(),
        "metersPerSceneUnit": UNIT,
        "renderProductResolution": [width, height],
    }


def _path(folder: Path, layout: str, camera: str, annotator: str, frame: int, ending: str) -> Path:
    home = annotator.removesuffix("_mapping")
    return {
        "flat": folder / f"{annotator}_{frame:04}.{ending}",
        "camera folders": folder / camera / home / f"{annotator}_{frame:04}.{ending}",
        "annotator folders": folder / annotator / f"{frame:05}.{ending}",
        "shared folders": folder / home / f"{camera}_{annotator}_{frame:04}.{ending}",
    }[layout]


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """write(folder, shot, ...): leaves a recording there as BasicWriter would, and other files that it writes too."""

    def write(
        folder: Path,
        shot: Shot,
        *,
        layout: str = "flat",
        camera: str = "Camera_A",
        distance: str = "distance_to_image_plane",
        without: tuple[str, ...] = (),
        first: int = 0,
    ) -> Path:
        def place(annotator: str, t: int, ending: str) -> Path:
            path = _path(folder, layout, camera, annotator, first + t, ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        along = np.ones((SIZE, SIZE))
        if distance == "distance_to_camera":
            column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
            k = shot.camera.intrinsics[0]
            along = np.sqrt(1 + ((column - k[0, 2]) / k[0, 0]) ** 2 + ((row - k[1, 2]) / k[1, 1]) ** 2)
        for t in range(FRAMES):
            alpha = np.full((SIZE, SIZE, 1), 255, dtype=np.uint8)
            Image.fromarray(np.concatenate([shot.pictures[t], alpha], axis=2)).save(place("rgb", t, "png"))
            place("camera_params", t, "json").write_text(json.dumps(camera_params(shot.camera, t)))
            depth = np.where(shot.truth.depth_valid[t], shot.truth.depth[t] * along, np.inf)
            np.save(place(distance, t, "npy"), depth.astype(np.float32))
            place("bounding_box_2d_tight", t, "npy").write_bytes(b"not ours to read")
            if "motion_vectors" not in without:
                rest = np.full((SIZE, SIZE, 2), -1, dtype=np.float32)
                np.save(place("motion_vectors", t, "npy"), np.concatenate([shot.vectors[t], rest], axis=2))
            if "instance_segmentation" not in without:
                _write_instances(shot.truth.instance[t], place, t)
        return folder

    return write


def _write_instances(instance: np.ndarray, place: Callable[[str, int, str], Path], t: int) -> None:
    """Colours change from frame to frame, as ids do in Replicator; the prims behind them do not."""
    table = np.array([COLOURS[0], *(COLOURS[1 + (i + t) % 59] for i in range(1, 60))], dtype=np.uint8)
    Image.fromarray(table[instance]).save(place("instance_segmentation", t, "png"))
    names = {str(tuple(table[i].tolist())): f"/World/Prim_{i:02}" for i in np.unique(instance).tolist() if i}
    names[str(COLOURS[0])] = "BACKGROUND"
    place("instance_segmentation_mapping", t, "json").write_text(json.dumps(names))
