"""camera_params: pose and projection of a USD camera, converted to the conventions of this package.

The keys are those of Replicator's CameraParams annotator. `cameraViewTransform` transforms points from the world to the
camera. Both 4x4 matrices are stored by rows and act on row vectors, as everywhere in USD: the annotator's example has a
camera at x = 100 whose matrix ends in (-100, 0, 0, 1). The camera looks along -z, y is up. The focal length is taken
from `cameraProjection`, with which the frame was rendered: Replicator makes pixels square and does not use the vertical
aperture (the same example: 1024 x 512 pixels, an aperture of 20.95 x 15.29, projection 2.29 and 4.58).

Source: DEFAULT_ANNOTATORS, "CameraParams", in omni.replicator.core/scripts/annotators_default.py; USD's UsdGeomCamera.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.engine.errors import UserError
from phys4d.importers.replicator.annotations import read_json

_KEYS = ("cameraModel", "cameraProjection", "cameraViewTransform", "metersPerSceneUnit", "renderProductResolution")
_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # y up, -z ahead <-> y down, z ahead
_RIGID = 1e-4


@dataclass(frozen=True)
class View:
    """The camera of one frame.

    intrinsics: float64 [3, 3], pixels.
    camera_to_world: float64 [4, 4], metres.
    far: metres, depth of the far clipping plane, inf if unknown.
    """

    intrinsics: np.ndarray
    camera_to_world: np.ndarray
    far: float = np.inf

    def rays(self, height: int, width: int) -> np.ndarray:
        """Ray directions through the pixel centres in camera axes, [H, W, 3], with z = 1."""
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        u = (column - self.intrinsics[0, 2]) / self.intrinsics[0, 0]
        v = (row - self.intrinsics[1, 2]) / self.intrinsics[1, 1]
        return np.stack([u, v, np.ones_like(u)], axis=-1)


def read_view(path: Path, height: int, width: int) -> View:
    """Reads the camera_params of a picture of this size.

    path: json file.
    height, width: of the picture, pixels.

    Raises UserError that names file and key if they cannot be used.
    """
    params = read_json(path)
    if missing := [key for key in _KEYS if key not in params]:
        raise UserError(f"{path}: has no {', '.join(missing)}: write camera_params as BasicWriter does")
    if params["cameraModel"] != "pinhole":
        raise UserError(f"{path}: cameraModel {params['cameraModel']!r}: only pinhole cameras can be imported")
    resolution = _numbers(path, params, "renderProductResolution", 2)
    if tuple(resolution) != (width, height):
        shown = "x".join(f"{number:g}" for number in resolution[::-1])
        raise UserError(
            f"{path}: renderProductResolution {shown} (height x width): the picture is {height}x{width}: "
            "import pictures of the size that was rendered"
        )
    metres = _numbers(path, params, "metersPerSceneUnit", 1)[0]
    if metres <= 0:
        raise UserError(f"{path}: metersPerSceneUnit {metres:g}: expected more than 0")
    projection = _numbers(path, params, "cameraProjection", 16).reshape(4, 4)
    view = _numbers(path, params, "cameraViewTransform", 16).reshape(4, 4)
    far = _numbers(path, params, "cameraNearFar", 2)[1] if "cameraNearFar" in params else np.inf
    return View(_intrinsics(path, projection, height, width), _pose(path, view, metres), far * metres)


def _numbers(path: Path, params: dict[str, Any], key: str, count: int) -> np.ndarray:
    try:
        numbers = np.asarray(params[key], dtype=np.float64).ravel()
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise UserError(f"{path}: {key} {str(params[key])[:40]}: expected {count} finite numbers: write it again")
    return numbers


def _intrinsics(path: Path, projection: np.ndarray, height: int, width: int) -> np.ndarray:
    """[3, 3] in pixels; the matrix's x and y are in halves of the image, y up."""
    others = projection[[0, 0, 1, 1, 3, 3], [1, 3, 0, 3, 0, 1]]
    scale = np.diag(projection)[:2]
    perspective = projection[2, 3] == -1 and projection[3, 3] == 0
    if not perspective or (scale <= 0).any() or others.any():
        raise UserError(f"{path}: cameraProjection: is no perspective projection: only pinhole cameras can be imported")
    focal = scale * (width, height) / 2
    return np.array(
        [
            [focal[0], 0, (1 - projection[2, 0]) * width / 2],
            [0, focal[1], (1 + projection[2, 1]) * height / 2],
            [0, 0, 1],
        ]
    )


def _pose(path: Path, view: np.ndarray, metres: float) -> np.ndarray:
    """Camera-to-world [4, 4] in metres, from the world-to-camera matrix for row vectors in scene units."""
    rotation = view[:3, :3]
    rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() <= _RIGID and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(view[:, 3], (0, 0, 0, 1), rtol=0, atol=1e-9):
        raise UserError(
            f"{path}: cameraViewTransform: is no rotation with a translation in its last row: "
            "write the matrix as Replicator gives it, without a scale above the camera"
        )
    to_world = np.eye(4)
    to_world[:3, :3] = rotation  # transposed (row to column vectors) and inverted, which cancel
    to_world[:3, 3] = -rotation @ view[3, :3] * metres
    return to_world @ _TO_OPENCV
