"""Distances that are not metres are refused if camera or range shows it, and converted on request."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.importers.replicator.camera import View
from phys4d.importers.replicator.motion import Frame
from phys4d.importers.replicator.units import unit_mismatch

SIZE, FOCAL = 32, 40.0
SCALES = {"metres": 1, "centimetres": 100, "millimetres": 1000}


def scene(step: tuple[float, float, float], scale: float, far: float = np.inf) -> list[Frame]:
    """A slanted wall 2 m ahead, n.x = 2, and a camera that moves by `step` metres a frame; depth times `scale`."""
    k = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1.0]])
    normal, frames = np.array([0.3, -0.2, 1.0]), []
    for t in range(4):
        pose = np.eye(4)
        pose[:3, 3] = np.multiply(step, t)
        view = View(k, pose, far)
        depth = (2 - normal @ pose[:3, 3]) / (view.rays(SIZE, SIZE) @ normal)
        frames.append(Frame(depth * scale, np.zeros((SIZE, SIZE), int), view))
    return frames


def vectors(step: tuple[float, float, float]) -> Callable[[int], np.ndarray]:
    """Where the camera of `scene` saw the points of a frame in the one before, exactly."""
    frames = scene(step, 1)

    def read(t: int) -> np.ndarray:
        local = frames[t].view.rays(SIZE, SIZE) * frames[t].depth[..., None] + step
        place = local[..., :2] / local[..., 2:] * FOCAL + SIZE / 2
        return place - np.moveaxis(np.mgrid[:SIZE, :SIZE][::-1], 0, -1) - 0.5

    return read


@pytest.mark.parametrize("unit", SCALES)
@pytest.mark.parametrize("step", [(0.05, 0, 0), (0, 0.02, 0.03), (0.001, 0, 0.001)])
def test_a_moving_camera_tells_the_unit_by_the_depth_alone_and_by_the_vectors(
    step: tuple[float, float, float], unit: str
) -> None:
    said = None if unit == "metres" else f"the motion of the camera fits {unit}, not metres"
    frames = scene(step, SCALES[unit])
    assert unit_mismatch(frames, None) == said
    assert unit_mismatch(frames, vectors(step)) == said


def test_a_wall_that_faces_the_camera_is_judged_by_the_vectors() -> None:
    """Sideways along it: no depth changes, so that depth alone says nothing."""
    frames = [Frame(np.full_like(f.depth, 2000.0), f.instance, f.view) for f in scene((0.05, 0, 0), 1)]
    right = np.zeros((SIZE, SIZE, 2))
    right[..., 0] = 0.05 * FOCAL / 2
    assert unit_mismatch(frames, lambda t: right) == "the motion of the camera fits millimetres, not metres"
    assert unit_mismatch(frames, None) == "with next to nothing nearer than 100 m"


@pytest.mark.parametrize(
    ("scale", "far", "said"),
    [
        (1, np.inf, None),
        (40, np.inf, None),
        (1000, np.inf, "with next to nothing nearer than 100 m"),
        (40, 50.0, "of which 100% is behind the far clipping plane of the camera (50 m)"),
        (1, 50.0, None),
    ],
)
def test_a_static_camera_leaves_the_range(scale: float, far: float, said: str | None) -> None:
    assert unit_mismatch(scene((0, 0, 0), scale, far), None) == said


def test_a_few_near_pixels_do_not_make_a_range_of_metres() -> None:
    frames = scene((0, 0, 0), 1000)
    frames[0].depth[0, :10] = 1e-5
    assert unit_mismatch(frames, None) == "with next to nothing nearer than 100 m"


def test_what_is_far_and_fits_a_moving_camera_is_not_asked_about() -> None:
    """A flight: everything is 100 times as far, and so is the camera's step."""
    frames = [
        Frame(f.depth * 100, f.instance, View(f.view.intrinsics, np.diag([1, 1, 1, 0.01]) @ f.view.camera_to_world))
        for f in scene((0.05, 0, 0.02), 1)
    ]
    for frame in frames:
        frame.view.camera_to_world[:3, 3] *= 100
        frame.view.camera_to_world[3, 3] = 1
    assert unit_mismatch(frames, None) is None
    assert unit_mismatch(frames, vectors((0.05, 0, 0.02))) is None


@pytest.mark.parametrize("camera", ["static", "moving"])
def test_a_recording_in_millimetres_is_refused_and_converted_where_asked(
    shot: Callable, write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, camera: str
) -> None:
    folder = write(tmp_path / "in", shot("ramp", camera, 11))
    arguments = ["data", "import-replicator", str(folder), "--out"]
    assert main([*arguments, str(tmp_path / "metres")]) == 0
    metres = ClipDataset(tmp_path / "metres")[0].arrays
    seen = metres["depth"][metres["depth_valid"]]
    [(low, high)] = re.findall(r"1 clips, depth from (\S+) to (\S+) m", capsys.readouterr().out)
    np.testing.assert_allclose([float(low), float(high)], [seen.min(), seen.max()], rtol=1e-3)
    for path in folder.glob("distance_to_image_plane_*.npy"):
        np.save(path, np.load(path) * np.float32(1000))
    assert main([*arguments, str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    why = {"moving": "the motion of the camera fits millimetres", "static": "with next to nothing nearer than 100 m"}
    assert "distance_to_image_plane_0000.npy: distances of this clip from " in error and why[camera] in error
    assert "--depth-unit, one of metres, centimetres, millimetres" in error and not (tmp_path / "out").exists()
    assert main([*arguments, str(tmp_path / "out"), "--depth-unit", "millimetres"]) == 0
    converted = ClipDataset(tmp_path / "out")[0].arrays
    np.testing.assert_allclose(converted["depth"], metres["depth"], rtol=5e-4)
    assert (converted["flow_valid"] == metres["flow_valid"]).mean() > 0.999
    if camera == "static":
        assert main([*arguments, str(tmp_path / "kept"), "--depth-unit", "metres"]) == 0
        assert ClipDataset(tmp_path / "kept")[0].arrays["depth"].max() > 1000
