"""Moving cameras: the path agrees with the caption, and the truth contains the camera's motion."""

import numpy as np
import pytest

from phys4d.simulation.clip import measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.rigid.body_meshes import body_meshes
from phys4d.simulation.scene import FLOOR, View
from phys4d.simulation.scenery.camera_path import CameraPath, Kind, level_axes

EYE, TARGET = np.array([0.2, -1.5, 0.9]), np.array([0.0, 0.05, 0.4])
FRAMES, FPS = 13, 20
KINDS: list[tuple[Kind, float]] = [("orbit", 20), ("pan", -8), ("dolly", 0.4), ("truck", -0.3), ("crane", 0.2)]


@pytest.mark.parametrize("handheld", [False, True])
@pytest.mark.parametrize("kind, rate", [*KINDS, ("still", 0.0)])
def test_every_path_starts_at_the_view_and_is_smooth(kind: Kind, rate: float, handheld: bool) -> None:
    view = View(tuple(EYE), tuple(TARGET), 45.0)
    path = CameraPath(kind, rate, handheld)
    camera = path.camera(240, 48, 48, 240, eye=EYE, target=TARGET, fov=45.0)
    still = view.camera(1, 48, 48, 240)
    assert np.array_equal(camera.camera_to_world[0], still.camera_to_world[0])
    assert np.array_equal(camera.intrinsics[0], still.intrinsics[0])
    rotation = camera.camera_to_world[:, :3, :3]
    assert np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12
    acceleration = np.diff(camera.camera_to_world, n=2, axis=0) * 240**2
    assert np.abs(acceleration).max() < 4  # m/s2, and 1/s2 of the rotation's elements
    assert rotation[:, 2, 1].max() < 0  # never upside down
    assert (np.ptp(camera.camera_to_world, axis=0).max() > 0) == (handheld or kind != "still")


@pytest.mark.parametrize("kind, rate", KINDS)
def test_a_path_does_what_it_says(kind: Kind, rate: float) -> None:
    eye, target = CameraPath(kind, rate).place(EYE, TARGET, 0.5)
    right, _, up = level_axes(EYE, TARGET)
    forward = (TARGET - EYE) / np.linalg.norm(TARGET - EYE)
    turned = level_axes(EYE, TARGET)[1] @ level_axes(eye, target)[1]
    if kind in ("orbit", "pan"):
        assert turned == pytest.approx(np.cos(np.deg2rad(rate / 2)))
        assert np.linalg.norm(eye - target) == pytest.approx(np.linalg.norm(EYE - TARGET))
        if kind == "orbit":
            assert np.array_equal(target, TARGET) and (eye - EYE) @ right > 0
        else:
            assert np.array_equal(eye, EYE) and (target - TARGET) @ right < 0
        return
    direction = {"dolly": forward, "truck": right, "crane": up}[kind]
    for way in (eye - EYE, target - TARGET):
        assert np.abs(way - rate / 2 * direction).max() < 1e-12


def test_what_stands_still_moves_in_the_image_as_the_camera_says_and_is_not_called_moving() -> None:
    config = SimulateConfig(families=("collision",), seed=4, frames=FRAMES, fps=FPS, camera="moving")
    paths = set()
    for index in range(4):
        found = sample_scene(config, index)
        scene, tracks = found.scene, found.meshes.tracks
        assert scene.view.path is not None
        camera = scene.view.camera(FRAMES, 48, 48, FPS)
        truth = measure(body_meshes(scene, tracks, detail=2), camera)
        for t in (0, FRAMES // 2, FRAMES - 2):
            row, column = np.nonzero(truth.instance[t] == FLOOR)
            pixel = np.stack([column, row], axis=1) + 0.5
            depth = truth.depth[t, row, column]
            points = camera.directions(t, pixel) * depth[:, None] + camera.origin(t)
            assert np.abs(points[:, 2]).max() < 1e-9  # on the floor, where the record's camera says
            later, later_depth = camera.project(t + 1, points)
            change = np.concatenate([later - pixel, (later_depth - depth)[:, None]], axis=1)
            assert np.abs(truth.motion[:, t, row, column].T - change).max() < 1e-9
            assert np.abs(change).max() > 1e-3
            assert not truth.moving[t, row, column].any()
        assert truth.moving.any()
        paths.add(scene.view.path.kind)
    assert len(paths) > 1


def test_the_same_happens_before_a_moving_camera() -> None:
    config = SimulateConfig(families=("topple",), seed=5, frames=FRAMES, fps=FPS)
    found, again = sample_scene(config, 0), sample_scene(config.model_copy(update={"camera": "moving"}), 0)
    scene, tracks, moving, same = found.scene, found.meshes.tracks, again.scene, again.meshes.tracks
    assert found.attempt == again.attempt and moving.bodies == scene.bodies
    assert all(np.array_equal(tracks[number].position, same[number].position) for number in tracks)
