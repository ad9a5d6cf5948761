"""Cameras that look from every side: closed rooms, whole particles, and paths that stay in the room."""

from dataclasses import replace

import numpy as np
import pytest

from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.clip import measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.particles.beads import RADIUS, beads
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import FIRST_BODY, WALL, Room, Unusable, View
from phys4d.simulation.scenery import free_camera, sampling
from phys4d.simulation.scenery.camera_path import CameraPath

VIEWS = 12  # of an orbit of 360 degrees


def orbit(view: View, frames: int) -> View:
    return replace(view, path=CameraPath("orbit", 360 / VIEWS, True))


@pytest.mark.parametrize("family", ["fall", pytest.param("column", marks=pytest.mark.slow)])
def test_an_orbit_shows_no_void(family: str) -> None:
    for seed in range(3):
        config = SimulateConfig(families=(family,), seed=seed, frames=VIEWS, fps=12)
        found = sample_scene(config, 0)
        camera = orbit(found.scene.view, VIEWS).camera(VIEWS, 40, 64, 1.0)
        truth = measure(found.meshes, camera)
        assert truth.depth_valid.all() and (truth.instance > 0).all()
        assert {WALL, FIRST_BODY} <= set(np.unique(truth.instance))
        azimuth = np.arctan2(*(camera.camera_to_world[:, :2, 3] - found.scene.view.target[:2]).T)
        assert np.ptp(np.unwrap(azimuth)) > np.deg2rad(320)


def test_a_room_leaves_no_gap_in_any_direction() -> None:
    found = sample_scene(SimulateConfig(families=("collision",), seed=1), 0)
    room = found.scene.room
    for eye in ((0.0, 0.0, 1.0), (room.right - 0.1, 0.0, 0.2), (0.0, 0.1 - room.front, room.height - 0.1)):
        assert room.clearance(np.array([eye]))[0] > 0.09
        for target in np.concatenate([np.eye(3), -np.eye(3)]) + np.array([0.01, 0.02, 0.0]):
            view = View(eye, tuple(np.array(eye) + target), 100.0)
            assert (measure(found.meshes, view.camera(found.meshes.frames, 24, 24, 1.0)).instance[0] > 0).all()


def test_a_liquid_has_its_back() -> None:
    """From every side a particle is as near as its sphere says, up to the height of a facet."""
    centre, spacing = np.array([0.05, 0.0, 0.3]), 0.2
    radius = RADIUS * spacing
    for detail, inner in ((3, 0.79), (4, 0.93)):
        part = beads(np.tile(centre, (2, 1, 1)), spacing, np.ones((1, 3)), FIRST_BODY, Texture.WATER, detail=detail)
        sequence = MeshSequence(
            part.vertices, part.faces.astype(np.int32), np.full(len(part.faces), FIRST_BODY, np.uint8), part.rest,
            np.ones((len(part.rest), 3), np.float32), np.full(len(part.rest), Texture.WATER, np.uint8),
        )  # fmt: skip
        for angle in np.arange(8) * np.pi / 4:
            eye = centre + 2 * np.array([np.sin(angle), np.cos(angle), 0.3])
            camera = View(tuple(eye), tuple(centre), 30.0).camera(2, 33, 33, 1.0)
            distance = np.linalg.norm(eye - centre)
            depth = measure(sequence, camera).depth[0, 16, 16]
            assert distance - radius <= depth <= distance - inner * radius


def test_cameras_differ_in_field_of_view_height_and_azimuth() -> None:
    views = [sampling.view(keyed_rng(5, number)) for number in range(300)]
    fov = np.array([view.fov for view in views])
    assert fov.min() < 33 and fov.max() > 67
    away = np.array([view.eye for view in views]) - np.array([view.target for view in views])
    azimuth = np.rad2deg(np.arctan2(away[:, 0], -away[:, 1]))
    assert azimuth.min() < -40 and azimuth.max() > 40  # of the four walls, the back wall is the one in view
    pitch = np.rad2deg(np.arctan2(away[:, 2], np.hypot(away[:, 0], away[:, 1])))
    assert pitch.min() < 12 and pitch.max() > 35
    size = 1 / (np.linalg.norm(away, axis=1) * np.tan(np.deg2rad(fov) / 2))
    assert size.max() / size.min() < 2.2  # the scene keeps about its size in the image


def test_a_path_that_leaves_the_room_or_enters_a_body_is_refused() -> None:
    found = sample_scene(SimulateConfig(families=("pendulum",), seed=3), 0)
    scene = found.scene
    kept = 0
    for number in range(40):
        free = free_camera.with_free_path(scene, keyed_rng(3, number), 5.0)
        eyes = free.view.camera(120, 1, 1, 24).camera_to_world[:, :3, 3]
        kept += scene.room.clearance(eyes).min() >= free_camera.FREE - 0.01
    assert kept == 40
    through = replace(scene, view=replace(scene.view, path=CameraPath("dolly", 4.0)))
    with pytest.raises(Unusable, match="leaves the room"):
        free_camera.check_camera_is_free(through, through.view.camera(25, 1, 1, 24))
    inside = View(tuple(np.array(scene.bodies[0].position) + 0.005), scene.view.target, 45.0)
    with pytest.raises(Unusable, match="too close"):
        free_camera.check_camera_keeps_off(found.meshes, inside.camera(2, 1, 1, 24))


def test_the_distance_to_a_triangle_is_that_of_its_nearest_point() -> None:
    triangle = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    expectations = {(0.2, 0.2, -0.3): 0.3, (0.5, -0.4, 0.0): 0.4, (2.0, 0, 1.0): 2**0.5, (1, 1, 0): 0.5**0.5}
    for point, expected in expectations.items():
        assert free_camera.distances_to_triangles(np.array(point), triangle) == pytest.approx([expected])


def test_a_room_is_closed() -> None:
    room = Room((0.5, 0.5, 0.5), (0.4, 0.4, 0.4), depth=1.3, texture_angle=0.0)
    assert room.clearance(np.array([[0, 0, 1.0], [0, 1.4, 1.0], [-4.0, 0, 1], [0, 0, 2.9]])) == pytest.approx(
        [1.0, -0.1, -1.0, -0.1]
    )


def test_a_fixed_lens_sees_45_degrees_along_the_same_line() -> None:
    for index in range(4):
        wide = FAMILIES["ramp"](keyed_rng(3, index, 0)).view
        usual = sampling.with_usual_lens(wide)
        assert usual.fov == 45.0 and usual.target == wide.target and wide.fov != 45.0
        before, after = (np.subtract(seen.eye, seen.target) for seen in (wide, usual))
        assert np.cross(before, after) == pytest.approx([0, 0, 0], abs=1e-12) and before @ after > 0
        if wide.fov < 45.0:  # a long lens keeps the size of the scene in the image
            opening = np.tan(np.deg2rad(wide.fov) / 2) / np.tan(np.deg2rad(45.0) / 2)
            assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before) * opening, rel=1e-9)
        config = SimulateConfig(families=("ramp",), seed=3, frames=9, looks="plain", lens="fixed")
        assert sample_scene(config, index).scene.view.fov == 45.0
