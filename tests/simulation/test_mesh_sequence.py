"""The mesh sequence: shapes, tracks, normals, and hand-made meshes in front of an empty background."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from phys4d.engine.errors import UserError
from phys4d.simulation import shapes
from phys4d.simulation.clip import measure, render
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.rendering import raster
from phys4d.simulation.rigid import FAMILIES
from phys4d.simulation.rigid.body_meshes import body_meshes
from phys4d.simulation.scene import FIRST_BODY, Light
from phys4d.simulation.scenery.camera import Camera

SIZES = {"ball": (0.2,), "box": (0.1, 0.2, 0.3), "cylinder": (0.2, 0.1), "capsule": (0.1, 0.15)}
SQUARE = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]) * 0.3


def square(steps: np.ndarray) -> MeshSequence:
    """A square at y = 0 that is moved by steps [T, 3]."""
    return MeshSequence(
        vertices=SQUARE + steps[:, None],
        faces=np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32),
        instance=np.array([7, 7], dtype=np.uint8),
        rest=SQUARE,
        colour=np.ones((4, 3), dtype=np.float32),
        texture=np.full(4, Texture.PLAIN, dtype=np.uint8),
    )


@pytest.mark.parametrize("shape", SIZES)
def test_shapes_are_closed_face_outward_and_have_their_volume(shape: str) -> None:
    mesh = trimesh.Trimesh(*shapes.mesh(shape, SIZES[shape], detail=4), process=False)
    mesh.merge_vertices()
    mesh.update_faces(mesh.nondegenerate_faces())
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(shapes.volume(shape, SIZES[shape]), rel=0.02)
    assert np.linalg.norm(mesh.vertices, axis=1).max() <= shapes.bounding_radius(shape, SIZES[shape]) + 1e-12
    assert mesh.bounds[1, 2] == pytest.approx(shapes.half_height(shape, SIZES[shape]))


@pytest.mark.parametrize("family", FAMILIES)
def test_tracks_move_the_rest_mesh_to_the_vertices(family: str) -> None:
    found = sample_scene(SimulateConfig(families=(family,), seed=2), 0)
    scene, tracks = found.scene, found.meshes.tracks
    sequence = body_meshes(scene, tracks)
    bodies = {FIRST_BODY + i for i in range(len(scene.bodies))}
    assert set(sequence.tracks) == bodies | set(scene.rod_instances.values())
    for instance, track in sequence.tracks.items():
        mine = np.unique(sequence.faces[sequence.instance == instance])
        x, y, z, w = (track.quaternion[:, i] for i in (1, 2, 3, 0))
        for t in range(sequence.frames):
            turn = trimesh.transformations.quaternion_matrix([w[t], x[t], y[t], z[t]])[:3, :3]
            moved = sequence.rest[mine] @ turn.T + track.position[t]
            assert np.abs(moved - sequence.vertices[t, mine]).max() < 1e-12


def test_normals_of_a_ball_point_outward() -> None:
    found = sample_scene(SimulateConfig(families=("collision",), seed=2), 0)
    scene, tracks = found.scene, found.meshes.tracks
    sequence = body_meshes(scene, tracks)
    number = next(i for i, body in enumerate(scene.bodies) if body.shape == "ball")
    mine = np.unique(sequence.faces[sequence.instance == FIRST_BODY + number])
    outward = sequence.vertices[-1, mine] - tracks[FIRST_BODY + number].position[-1]
    cosine = (sequence.normals(-1)[mine] * outward).sum(axis=1) / np.linalg.norm(outward, axis=1)
    assert cosine.min() > 0.99


def test_where_nothing_is_seen_nothing_is_valid() -> None:
    sequence = square(np.array([[0, 0, 0], [0.1, 0.05, 0], [0.2, 0.1, 0]]))
    camera = Camera.static(3, 24, 32, eye=np.array([0, -2.0, 0.01]), target=np.zeros(3), fov=45)
    renderer = raster.Rasteriser(24, 32)
    truth = measure(sequence, camera)
    seen = truth.depth_valid
    assert 0.05 < seen.mean() < 0.5
    assert (truth.depth[~seen] == 0).all() and (truth.instance[~seen] == 0).all()
    assert (truth.instance[seen] == 7).all()
    assert (truth.motion[:, ~seen[:-1]] == 0).all()
    for mask in (truth.flow_valid, truth.dz_valid):
        assert np.array_equal(mask, seen[:-1])
    assert not truth.visible[~seen[:-1]].any() and not truth.moving[~seen[:-1]].any()
    assert truth.visible[seen[:-1]].all() and truth.moving[seen[:-1]].all()
    corner = render(sequence, camera, Light((0, 1, -1), (0, 0, 0), 1, 0.4), renderer)[:, 0, 0]
    assert (np.abs(corner - 255 * np.array(raster.BACKGROUND)) <= 1).all()


def test_a_step_sideways_and_away_moves_by_the_pinhole_formula() -> None:
    step = np.array([0.1, 0.05, 0.02])
    camera = Camera.static(2, 33, 33, eye=np.array([0, -2.0, 0]), target=np.zeros(3), fov=40)
    truth = measure(square(np.stack([np.zeros(3), step])), camera)
    focal = 16.5 / np.tan(np.deg2rad(20))
    middle = truth.motion[:, 0, 16, 16]
    assert truth.depth[0, 16, 16] == pytest.approx(2, abs=1e-12)
    expected = [focal * step[0] / (2 + step[1]), -focal * step[2] / (2 + step[1]), step[1]]
    assert middle == pytest.approx(expected, abs=1e-12)


def test_leaving_the_image_is_not_visible() -> None:
    camera = Camera.static(2, 24, 24, eye=np.array([0, -2.0, 0]), target=np.zeros(3), fov=45)
    truth = measure(square(np.array([[0, 0, 0], [5.0, 0, 0]])), camera)
    assert truth.flow_valid.any() and not truth.visible.any()


def test_arrays_that_do_not_fit_are_refused() -> None:
    sequence = square(np.zeros((2, 3)))
    for wrong in (
        {"instance": np.zeros(2, dtype=np.uint8)},
        {"faces": sequence.faces + 1},
        {"rest": sequence.rest[:2]},
        {"colour": sequence.colour.astype(np.float64)},
        {"vertices": sequence.vertices * np.nan},
    ):
        with pytest.raises(ValueError):
            replace(sequence, **wrong)


def test_without_egl_the_packages_to_install_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise Exception("libEGL.so not loaded")

    monkeypatch.setattr(raster.moderngl, "create_context", refuse)
    with pytest.raises(UserError, match="apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri"):
        raster.create_context()
