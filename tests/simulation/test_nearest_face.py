"""Every pixel shows the nearest face along its ray, and every landing point is hidden by what is in front of it.

The check shares no code with the renderer or the truth (`nearest_face.py`).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phys4d.kernels import native
from phys4d.kernels.native import compiled_for
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.clip import Truth, measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rejection_sampling import CameraMotion
from phys4d.simulation.scene import View
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.scenery.camera_path import CameraPath
from tests.simulation import count_wrong_pixels
from tests.simulation.count_wrong_pixels import checked
from tests.simulation.nearest_face import wrong_surfaces, wrong_visibilities

FPS = 24


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
@pytest.mark.parametrize("camera", ["static", "moving"])
@pytest.mark.parametrize("category", CATEGORIES)
def test_no_pixel_of_a_million_is_wrong(category: str, camera: CameraMotion) -> None:
    found = checked(category, camera)
    assert found["wrong_surfaces"] == found["wrong_visibilities"] == 0
    assert found["pixels"] > 1e6 and found["landing_points"] > 4e5


def test_wrong_pixels_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_wrong_pixels, "SIZE", 24)
    monkeypatch.setattr(count_wrong_pixels, "FRAMES", 15)
    found = checked("rigid", "static", families=("fall",))
    assert found["pixels"] == 15 * 24 * 24 and not found["wrong_surfaces"] and not found["wrong_visibilities"]
    assert 0.5 * found["pixels"] < found["landing_points"] <= found["pixels"]
    exact = count_wrong_pixels.measure

    def shifted(sequence: MeshSequence, camera: Camera) -> Truth:
        truth = exact(sequence, camera)
        return replace(truth, depth=truth.depth - 1e-6, visible=~truth.visible)

    monkeypatch.setattr(count_wrong_pixels, "measure", shifted)
    found = checked("rigid", "static", families=("fall",))
    assert found["wrong_surfaces"] > 0.9 * found["pixels"] and found["wrong_visibilities"] > 0.5 * found["pixels"]
