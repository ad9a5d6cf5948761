"""The truth against rays that trimesh casts with Embree; no code is shared with the renderer or the truth."""

from functools import lru_cache

import numpy as np
import pytest
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.clip import Truth, measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rejection_sampling import CameraMotion
from phys4d.simulation.scenery.camera import Camera

FRAMES, FPS, SIZE = 13, 20, 48
LIMIT = 1e-9
FALSELY_VISIBLE = 1e-4
HIDDEN = {"rigid": 0.1, "granular": 0.35}  # grains occlude each other
USUALLY_HIDDEN = 0.25
QUICK = 1  # families of each category in the default tests; the slow tests use all
SCENES = [
    *((family, seed, "static") for family in ("fall", "collision") for seed in (12, 13)),
    *((family, 12, "moving") for family in CATEGORIES["rigid"]),
]
LIKELY = [
    *SCENES,
    *(
        pytest.param((family, seed, motion), marks=[] if number < QUICK and seed == 11 else [pytest.mark.slow])
        for category, families in CATEGORIES.items()
        for number, family in enumerate(families if category != "rigid" else ())
        for seed, motion in ((11, "static" if number % 2 else "moving"), (12, "moving"))
    ),
    *((family, 11, "static") for family in CATEGORIES["rigid"]),
]


@lru_cache(maxsize=8)
def clip(family: str, seed: int, motion: CameraMotion) -> tuple[MeshSequence, Camera, Truth]:
    config = SimulateConfig(families=(family,), seed=seed, frames=FRAMES, fps=FPS, size=(SIZE, SIZE), camera=motion)
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(FRAMES, SIZE, SIZE, FPS)
    return found.meshes, camera, measure(found.meshes, camera)


def little_is_hidden_and_what_is_hidden_lies_behind_something(
    family: str, sequence: MeshSequence, camera: Camera, truth: Truth
) -> None:
    category = next(name for name, families in CATEGORIES.items() if family in families)
    hidden = truth.flow_valid & ~truth.visible
    assert 0 < hidden.mean() <= HIDDEN.get(category, USUALLY_HIDDEN)
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    landed = np.stack([column, row])[:, None] + truth.motion[:2]
    inside = ((landed >= 0) & (landed <= SIZE)).all(axis=0)
    shadowed = hidden & inside
    errors = depth_errors(sequence, camera, Truth(**vars(truth) | {"visible": shadowed}))
    assert (errors >= -1e-7).mean() <= 0.01
    for t, row, column in np.argwhere(shadowed)[errors >= -1e-7]:
        point = np.array([*landed[:, t, row, column], 1.0])
        surface = truth.depth[t, row, column] + truth.motion[2, t, row, column]
        assert nearest(sequence, camera, t + 1, point) < surface - 1e-7


def nearest(sequence: MeshSequence, camera: Camera, t: int, pixel: np.ndarray) -> float:
    """Depth of the first surface at a place [x, y, 1] of frame t, all triangles in float64.

    Embree's rays are float32: some pass by the very edge of a thing that hides a point just behind its outline.
    """
    pose = camera.camera_to_world[t]
    direction = pose[:3, :3] @ np.linalg.solve(camera.intrinsics[t], pixel)
    corner, second, third = (sequence.vertices[t, sequence.faces[:, k]].astype(np.float64) for k in range(3))
    columns = np.stack([corner - second, corner - third, np.broadcast_to(direction, corner.shape)], axis=-1)
    flat = np.abs(np.linalg.det(columns)) < 1e-18
    columns[flat] = np.eye(3)
    second_share, third_share, distance = np.linalg.solve(columns, (corner - pose[:3, 3])[..., None])[..., 0].T
    met = ~flat & (second_share >= 0) & (third_share >= 0) & (second_share + third_share <= 1) & (distance > 0)
    return float(distance[met].min(initial=np.inf) * (direction @ pose[:3, 2]))


def depth_errors(sequence: MeshSequence, camera: Camera, truth: Truth, shift: float = 0.0) -> np.ndarray:
    """Depth hit at the landing point in frame t+1, less depth + dz, of all visible pixels; inf for a miss, which
    `nearest` has to confirm."""
    row, column = np.mgrid[: camera.height, : camera.width] + 0.5
    errors = []
    for t in range(sequence.frames - 1):
        seen = truth.visible[t]
        du, dv, dz = truth.motion[:, t, seen]
        k, pose = camera.intrinsics[t + 1], camera.camera_to_world[t + 1]
        pixel = np.stack([column[seen] + du + shift, row[seen] + dv, np.ones(seen.sum())])
        directions = (pose[:3, :3] @ np.linalg.solve(k, pixel)).T
        mesh = trimesh.Trimesh(sequence.vertices[t + 1], sequence.faces, process=False)
        origins = np.tile(pose[:3, 3], (len(directions), 1))
        place, ray, _ = RayMeshIntersector(mesh).intersects_location(origins, directions, multiple_hits=False)
        hit = np.full(len(directions), np.inf)
        hit[ray] = (place - pose[:3, 3]) @ pose[:3, 2]
        for missed in np.flatnonzero(np.isinf(hit)):  # by float32, at an edge
            hit[missed] = nearest(sequence, camera, t + 1, pixel[:, missed])
        errors.append(hit - (truth.depth[t][seen] + dz))
    return np.concatenate(errors)


@pytest.mark.parametrize("scene", LIKELY)
def test_rays_cast_by_another_program_land_where_the_truth_says(scene: tuple[str, int, CameraMotion]) -> None:
    sequence, camera, truth = clip(*scene)
    errors = depth_errors(sequence, camera, truth)
    assert np.isfinite(errors).all()
    assert np.quantile(np.abs(errors), 0.999) <= LIMIT
    assert (np.abs(errors) > 1e-5).mean() <= FALSELY_VISIBLE
    assert truth.flow_valid.mean() >= 0.8 and truth.depth_valid.mean() >= 0.8
    moving = depth_errors(sequence, camera, Truth(**vars(truth) | {"visible": truth.visible & truth.moving}))
    assert len(moving) > 300
    assert np.quantile(np.abs(moving), 0.99) <= LIMIT
    if truth.opacity is None:  # smoke occludes without being a surface
        little_is_hidden_and_what_is_hidden_lies_behind_something(scene[0], sequence, camera, truth)


@pytest.mark.parametrize("scene", [("fall", 11, "static"), ("collision", 11, "static"), ("spin", 12, "moving")])
def test_a_wrong_sign_or_half_a_pixel_is_noticed(scene: tuple[str, int, CameraMotion]) -> None:
    sequence, camera, truth = clip(*scene)
    for channel in range(3):
        motion = truth.motion.copy()
        motion[channel] *= -1
        wrong = Truth(**vars(truth) | {"motion": motion})
        assert np.quantile(np.abs(depth_errors(sequence, camera, wrong)), 0.999) > 1e3 * LIMIT
    assert np.quantile(np.abs(depth_errors(sequence, camera, truth, shift=0.5)), 0.999) > 1e3 * LIMIT


