"""Cameras and vectors against numbers from Replicator's documentation; motion against closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.importers.replicator.camera import View, read_view
from phys4d.importers.replicator.motion import Frame, forward_motion

# What the example of the CameraParams annotator prints, for a camera at x = 100 and one in the origin.
PROJECTION = [2.29, 0, 0, 0, 0, 4.58, 0, 0, 0, 0, 0, -1, 0, 0, 1, 0]
VIEW = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, -100, 0, 0, 1]
DOCUMENTED = {
    "cameraAperture": [20.95, 15.29],
    "cameraFocalLength": 24.0,
    "cameraModel": "pinhole",
    "cameraProjection": PROJECTION,
    "cameraViewTransform": VIEW,
    "metersPerSceneUnit": 0.009999999776482582,
    "renderProductResolution": [1024, 512],
}
SIZE, FOCAL = 24, 30.0


def read(folder: Path, **changes: object) -> View:
    path = folder / "camera_params_0000.json"
    path.write_text(json.dumps(DOCUMENTED | changes))
    return read_view(path, 512, 1024)


def test_the_documented_camera_stands_where_it_was_put_and_looks_along_minus_z(tmp_path: Path) -> None:
    view = read(tmp_path)
    np.testing.assert_allclose(view.camera_to_world[:3, 3], (1, 0, 0), rtol=1e-7)
    right, down, ahead = view.camera_to_world[:3, :3].T
    np.testing.assert_array_equal([right, down, ahead], [(1, 0, 0), (0, -1, 0), (0, 0, -1)])


def test_the_documented_pixels_are_square_with_the_focal_length_over_the_horizontal_aperture(tmp_path: Path) -> None:
    k = read(tmp_path).intrinsics
    assert k[0, 0] == pytest.approx(24 / 20.95 * 1024, rel=1e-3) and k[1, 1] == pytest.approx(k[0, 0])
    assert (k[0, 2], k[1, 2]) == (512, 256)


def test_a_projection_off_its_centre_moves_the_principal_point(tmp_path: Path) -> None:
    shifted = list(PROJECTION)
    shifted[8:10] = 0.1, -0.2
    k = read(tmp_path, cameraProjection=shifted).intrinsics
    # A point on the axis, (0, 0, -1), lands at x = -0.1 and y = 0.2 of the image, which reaches from -1 to 1, y up.
    np.testing.assert_allclose((k[0, 2], k[1, 2]), ((1 - 0.1) * 512, (1 - 0.2) * 256))


def still_camera() -> View:
    k = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1.0]])
    return View(k, np.eye(4))


def card(centre: tuple[float, float, float], half: float, wall: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Depth and instance [H, W] of a card (2) that faces the camera before a wall (1)."""
    x, y = np.meshgrid(*2 * [(np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL * centre[2]])
    on = (np.abs(x - centre[0]) < half) & (np.abs(y - centre[1]) < half)
    return np.where(on, centre[2], wall), np.where(on, 2, 1)


def test_positive_vectors_are_motion_to_the_left_and_to_the_top() -> None:
    depth, instance = card((0, 0, 2), 0.3)
    frame = Frame(depth, instance, still_camera())
    moved = card((-0.2, -0.1, 2), 0.3)  # by 3 pixels to the left and 1.5 up
    vectors = np.where((moved[1] == 2)[..., None], (3.0, 1.5), 0.0)
    result = forward_motion(frame, Frame(*moved, still_camera()), vectors)
    on = result.known & (instance == 2)
    assert on.sum() > 20 and result.moving[on].all()
    np.testing.assert_allclose(result.motion[:, on], np.array([[-3], [-1.5], [0]]) * np.ones(on.sum()), atol=1e-9)


@pytest.mark.parametrize("labelled", [True, False])
def test_what_a_card_covers_is_not_known_and_what_it_uncovers_is_not_taken_for_the_card(labelled: bool) -> None:
    (depth, instance), (after, instance_after) = card((0, 0, 2), 0.3), card((-0.2, 0, 2), 0.3)
    vectors = np.where((instance_after == 2)[..., None], (3.0, 0.0), 0.0)
    frames = [Frame(d, i * labelled, still_camera()) for d, i in ((depth, instance), (after, instance_after))]
    result = forward_motion(*frames, vectors)
    covered = (instance == 1) & (instance_after == 2)
    assert covered.sum() > 20 and not result.known[covered].any()
    wall = result.known & (instance == 1)
    assert not result.motion[:, wall].any() and not result.moving[wall].any()
    assert wall.sum() > 0.8 * ((instance == 1) & ~covered).sum()
    on = result.known & (instance == 2)
    assert on.sum() > 20 and np.abs(result.motion[0, on] + 3).max() < 1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*3 * [st.floats(-0.25, 0.25)]), st.tuples(*3 * [st.floats(-0.05, 0.05)]), st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5), st.booleans(),
)  # fmt: skip
def test_a_plane_that_moves_and_turns_is_followed_to_thousandths_of_a_pixel(
    shift: tuple[float, float, float], turn: tuple[float, float, float], a: float, b: float, camera_moves: bool
) -> None:
    """Every point x of the plane n.x = 2 moves to R x + s, or rests while the camera moves by the inverse."""
    n = np.array([a, b, 1.0])
    angle = np.linalg.norm(turn)
    cross = np.cross(np.eye(3), turn)
    rotation = np.eye(3)
    if angle > 1e-9:
        axis = cross / angle
        rotation = np.eye(3) - np.sin(angle) * axis + (1 - np.cos(angle)) * axis @ axis
    view, rays = still_camera(), still_camera().rays(SIZE, SIZE)
    before = 2 / (rays @ n)
    turned = rotation @ n
    after = (2 + turned @ shift) / (rays @ turned)
    source = (rays * after[..., None] - shift) @ rotation  # where the points of the later frame were
    place = source[..., :2] / source[..., 2:] * FOCAL + SIZE / 2
    centre = np.moveaxis(np.mgrid[:SIZE, :SIZE][::-1], 0, -1) + 0.5
    later = np.eye(4)
    if camera_moves:
        later[:3, :3], later[:3, 3] = rotation.T, -rotation.T @ shift
    same = np.ones((SIZE, SIZE), dtype=int)
    result = forward_motion(Frame(before, same, view), Frame(after, same, View(view.intrinsics, later)), place - centre)
    landed = rays * before[..., None] @ rotation.T + shift
    pixel = landed[..., :2] / landed[..., 2:] * FOCAL + SIZE / 2
    inside = ((pixel > 1) & (pixel < SIZE - 1)).all(axis=-1)
    assert result.known[inside].all()
    known = result.known
    np.testing.assert_allclose(result.motion[:2, known], (pixel - centre)[known].T, atol=2e-3)
    np.testing.assert_allclose(result.motion[2, known], (landed[..., 2] - before)[known], atol=1e-3)
    if camera_moves:
        assert not result.moving.any()
