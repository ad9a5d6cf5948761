"""Every pixel shows the nearest face along its ray, and every landing point is hidden by what is in front of it.

Embree, as trimesh calls it, finds a face for each ray; where it disagrees with the truth, all faces are intersected in
float64. No code is shared with the renderer or the truth.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from phys4d.kernels import native
from phys4d.kernels.native import compiled_for
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.clip import Truth, measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import View
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.scenery.camera_path import CameraPath

EXACT = 1e-9  # metres
FPS = 24


def first_hits(mesh: trimesh.Trimesh, eye: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance along each direction of the face that Embree hits first, inf for none, and the face, -1 for none."""
    caster = RayMeshIntersector(mesh)
    face, ray = caster.intersects_id(np.tile(eye, (len(directions), 1)), directions, multiple_hits=False)
    corner = mesh.vertices[mesh.faces[face, 0]] - eye
    normal = np.cross(*(mesh.vertices[mesh.faces[face, k]] - mesh.vertices[mesh.faces[face, 0]] for k in (1, 2)))
    distance, found = np.full(len(directions), np.inf), np.full(len(directions), -1)
    found[ray] = face
    with np.errstate(divide="ignore", invalid="ignore"):
        distance[ray] = (normal * corner).sum(axis=1) / (normal * directions[ray]).sum(axis=1)
    return distance, found


def all_hits(mesh: trimesh.Trimesh, eye: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and faces of all triangles that a ray meets (Moeller and Trumbore), in float64."""
    corner, second, third = (np.asarray(mesh.vertices)[mesh.faces[:, k]] - eye for k in range(3))
    second, third = second - corner, third - corner
    across = np.cross(direction, third)
    volume = (second * across).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = -(corner * across).sum(axis=1) / volume
        beside = np.cross(-corner, second)
        v, distance = (beside @ direction) / volume, (third * beside).sum(axis=1) / volume
    met = np.nonzero((u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0))[0]
    return distance[met], met


def directions_through(camera: Camera, t: int, pixel: np.ndarray) -> np.ndarray:
    """World directions of unit depth through pixel coordinates [2, N]."""
    local = np.linalg.solve(camera.intrinsics[t], np.vstack([pixel, np.ones_like(pixel[:1])]))
    return (camera.camera_to_world[t, :3, :3] @ local).T


def wrong_surfaces(sequence: MeshSequence, camera: Camera, truth: Truth) -> list[tuple[int, int, int]]:
    """(frame, row, column) of the pixels whose depth or instance is not that of the nearest face."""
    wrong = []
    row, column = (axis.ravel() for axis in np.mgrid[: camera.height, : camera.width])
    for t in range(sequence.frames):
        mesh = trimesh.Trimesh(sequence.vertices[t], sequence.faces, process=False)
        eye = camera.camera_to_world[t, :3, 3]
        rays = directions_through(camera, t, np.stack([column, row]) + 0.5)
        distance, face = first_hits(mesh, eye, rays)
        depth = np.where(truth.instance[t] > 0, truth.depth[t], np.inf).ravel()
        instance = np.where(face >= 0, sequence.instance[face], 0)
        with np.errstate(invalid="ignore"):
            agrees = (np.abs(distance - depth) <= EXACT) | (distance == depth)
        agrees &= instance == truth.instance[t].ravel()
        for pixel in np.nonzero(~agrees)[0]:
            distances, faces = all_hits(mesh, eye, rays[pixel])
            nearest = distances.min(initial=np.inf)
            equal = sequence.instance[faces[distances <= nearest + EXACT]]
            same = depth[pixel] == nearest or abs(depth[pixel] - nearest) <= EXACT
            if not same or truth.instance[t].ravel()[pixel] not in (equal if len(equal) else [0]):
                wrong.append((t, int(row[pixel]), int(column[pixel])))
    return wrong


def wrong_visibilities(sequence: MeshSequence, camera: Camera, truth: Truth) -> list[tuple[int, int, int]]:
    """(frame, row, column) of the pixels whose point is called visible though a face is in front of it, or the
    opposite.
    """
    wrong = []
    for t in range(sequence.frames - 1):
        row, column = np.nonzero(truth.flow_valid[t])
        landed = np.stack([column, row]) + 0.5 + truth.motion[:2, t, row, column]
        inside = ((landed >= 0) & (landed <= [[camera.width], [camera.height]])).all(axis=0)
        said = truth.visible[t, row, column]
        wrong += [(t, int(i), int(j)) for i, j in zip(row[said & ~inside], column[said & ~inside], strict=True)]
        row, column, said = row[inside], column[inside], said[inside]
        mesh = trimesh.Trimesh(sequence.vertices[t + 1], sequence.faces, process=False)
        eye, rays = camera.camera_to_world[t + 1, :3, 3], directions_through(camera, t + 1, landed[:, inside])
        depth = truth.depth[t, row, column] + truth.motion[2, t, row, column]
        distance, _ = first_hits(mesh, eye, rays)
        for pixel in np.nonzero(said != (distance >= depth - EXACT))[0]:
            nearest = all_hits(mesh, eye, rays[pixel])[0].min(initial=np.inf)
            # Within a few tolerances of the truth's own, either is right.
            if (nearest < depth[pixel] - 10 * EXACT) if said[pixel] else (nearest >= depth[pixel] - 0.1 * EXACT):
                wrong.append((t, int(row[pixel]), int(column[pixel])))
    return wrong


def clip(family: str, size: int, frames: int, **settings: Any) -> tuple[MeshSequence, Camera, Truth]:
    config = SimulateConfig(families=(family,), size=(size, size), frames=frames, fps=FPS, **settings)
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(frames, size, size, FPS)
    return found.meshes, camera, measure(found.meshes, camera)


def scattered_triangles(moving: float) -> MeshSequence:
    """Small triangles in front of a wall, most of whose outlines a rasteriser rounds; some move, some are at rest."""
    rng, frames, count = np.random.default_rng(3), 3, 600
    centre = rng.uniform([-0.7, -0.6, -0.7], [0.7, 0.6, 0.7], (count, 1, 3))
    corners = centre + rng.uniform(-0.06, 0.06, (count, 3, 3))
    steps = np.arange(frames)[:, None, None, None] * rng.uniform(-0.03, 0.03, (count, 1, 3))
    steps = steps * (rng.uniform(size=(count, 1, 1)) < moving)
    wall = np.array([[[-9.0, 0.8, -9], [9, 0.8, -9], [0, 0.8, 9]], [[-9, -9, -0.8], [9, -9, -0.8], [0, 9, -0.8]]])
    vertices = np.concatenate([np.broadcast_to(wall, (frames, 2, 3, 3)), corners + steps], axis=1)
    vertices = vertices.reshape(frames, -1, 3)
    return MeshSequence(
        vertices=vertices,
        faces=np.arange(vertices.shape[1], dtype=np.int32).reshape(-1, 3),
        instance=(1 + np.arange(count + 2) % 255).astype(np.uint8),
        rest=vertices[0],
        colour=np.ones((vertices.shape[1], 3), dtype=np.float32),
        texture=np.zeros(vertices.shape[1], dtype=np.uint8),
    )


@pytest.mark.parametrize("path", [None, CameraPath("orbit", 40.0), CameraPath("dolly", 2.0)])
@pytest.mark.parametrize("moving", [0.0, 0.5])
def test_scattered_triangles_are_seen_and_hidden_exactly(moving: float, path: CameraPath | None) -> None:
    sequence = scattered_triangles(moving)
    camera = View((0.1, -2.2, 0.3), (0, 0, 0), 45.0, path).camera(3, 64, 80, FPS)
    truth = measure(sequence, camera)
    assert not wrong_surfaces(sequence, camera, truth) and not wrong_visibilities(sequence, camera, truth)
    hidden = truth.flow_valid & ~truth.visible
    assert 0.002 < hidden.mean() < 0.3 or (path is None and not moving)
    assert (truth.moving.mean() > 0.05) == (moving > 0)
    assert wrong_surfaces(sequence, camera, replace(truth, instance=np.roll(truth.instance, 1, axis=1)))
    assert wrong_visibilities(sequence, camera, replace(truth, visible=~truth.visible))


@pytest.mark.parametrize("family", ["fall", "hot_bar"])
def test_what_never_moves_is_reused_to_the_bit(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence, camera, reused = clip(family, 48, 9, seed=5)
    monkeypatch.setattr(Camera, "is_static", lambda camera: False)
    recast = measure(sequence, camera)
    for name, array in vars(reused).items():
        again = getattr(recast, name)
        if name == "motion":  # of points at rest exactly 0, else their rounded projection
            assert np.abs(again[array == 0]).max() < 1e-12 and (array == 0).mean() < 0.97
            again = np.where(array == 0, 0, again)
        assert np.array_equal(array, again), name
    assert reused.moving.any() and not reused.visible.all()
    assert (reused.motion[:, reused.moving] != 0).any(axis=0).all()
    monkeypatch.undo()
    single = measure(sequence, camera, np.float32)
    for name, array in reused.stored().items():
        assert np.array_equal(array, single.stored()[name]), name


@pytest.mark.skipif(not compiled_for("phys4d::native_first_faces", "cpu"), reason="no native code here")
@pytest.mark.parametrize("path", [None, CameraPath("orbit", 40.0)])
def test_native_code_finds_what_the_definition_finds(path: CameraPath | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = scattered_triangles(0.5)
    camera = View((0.1, -2.2, 0.3), (0, 0, 0), 45.0, path).camera(3, 64, 80, FPS)
    fast = measure(sequence, camera)
    monkeypatch.setattr(native, "compiled_for", lambda *_: False)
    for name, array in vars(measure(sequence, camera)).items():
        assert np.array_equal(array, getattr(fast, name)), name


@pytest.mark.slow
@pytest.mark.parametrize("motion", ["static", "moving"])
@pytest.mark.parametrize("category", CATEGORIES)
def test_no_pixel_of_a_million_is_wrong(category: str, motion: str) -> None:
    pixels = 0
    for number, family in enumerate(CATEGORIES[category]):
        sequence, camera, truth = clip(family, 128, 25, seed=4242 + number, camera=motion)
        assert not wrong_surfaces(sequence, camera, truth), family
        if truth.opacity is None:  # smoke hides without being a surface
            assert not wrong_visibilities(sequence, camera, truth), family
        pixels += truth.depth.size
    assert pixels > 1e6
