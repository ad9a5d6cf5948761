"""Smoke: no divergence, buoyancy, opacity by the Beer-Lambert law, and no truth behind opaque smoke."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from phys4d.engine.data.clip import blob
from phys4d.simulation.clip import measure, render
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.rendering.raster import Rasteriser
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.smoke.air_grid import AirGrid, GridBox
from phys4d.simulation.smoke.smoke_volume import CLEAR, SmokeVolume

BOX = GridBox((-0.5, -0.5, 0.0), 1.0, 24)
SOURCE = (np.array([0.0, 0.0, 0.1]), 0.08)
SIZE = 48
STEPS = 100  # of the march that the tests compare with


def air() -> AirGrid:
    return AirGrid(BOX, SOURCE, np.random.Generator(np.random.Philox(1)))


def test_hot_smoke_rises_and_none_is_made_outside_the_burner() -> None:
    moved, height = air(), []
    for _ in range(24):
        moved.step(1 / 48)
        assert moved.smoke.min() >= 0 and moved.smoke.max() <= 1
        height.append((moved.smoke * BOX.centres()[2]).sum() / moved.smoke.sum())
    assert np.all(np.diff(height)[4:] > 0) and height[-1] > height[0] + 0.05
    assert moved.heat.sum() < moved.smoke.sum()  # it cools faster than it thins out


def test_what_is_projected_neither_piles_up_nor_thins_out() -> None:
    """Central differences over twice a cell see only what is wider than that: all but a tenth of it goes."""
    moved = air()
    along = np.linspace(0, 2 * np.pi, BOX.cells)
    x, y, z = np.meshgrid(along, along, along, indexing="ij")
    moved.velocity = np.stack([np.sin(x), np.sin(y) * np.cos(z), np.cos(x) * np.sin(z)]).astype(np.float32)
    before = divergence(moved.velocity)
    moved._project()
    assert np.abs(divergence(moved.velocity)).mean() < 0.1 * np.abs(before).mean()


def divergence(velocity: np.ndarray) -> np.ndarray:
    return sum(np.gradient(velocity[axis], axis=axis)[2:-2, 2:-2, 2:-2] for axis in range(3))


def test_a_ball_carries_the_air_along_and_holds_no_smoke() -> None:
    moved = air()
    for _ in range(20):
        moved.step(1 / 48)
    centre, velocity = np.array([0.0, 0.0, 0.15]), np.array([2.0, 0.0, 0.0])
    moved.step(1 / 48, (centre, 0.12, velocity))
    inside = ((BOX.centres() - centre[:, None, None, None]) ** 2).sum(axis=0) < 0.08**2
    assert moved.velocity[0][inside].mean() == pytest.approx(2.0) and moved.smoke[inside].max() < 0.2


def test_a_cloud_covers_as_beer_and_lambert_say_up_to_the_surface_behind() -> None:
    density = np.full((1, 24, 24, 24), 0.5, dtype=np.float32)
    camera = Camera.static(1, 33, 33, eye=np.array([0.0, -2.0, 0.5]), target=np.array([0.0, 0.0, 0.5]), fov=10)
    volume = SmokeVolume(BOX, density, 4.0, (1.0, 1.0, 1.0))
    for depth, way in ((10.0, 1.0), (2.0, 0.5), (1.4, 0.0)):
        opacity, brightness = volume.opacity_and_brightness(0, camera, np.full((33, 33), depth))
        assert opacity[16, 16] == pytest.approx(1 - np.exp(-0.5 * 4.0 * way), abs=0.03)
        assert brightness.min() >= 0 and brightness.max() <= 1
    picture = np.full((33, 33, 3), 200, dtype=np.uint8)
    clear = volume.composite(picture, np.zeros((33, 33)), np.zeros((33, 33)))
    assert np.array_equal(clear, picture)


@pytest.mark.parametrize(("size", "worst", "mean"), [(33, 0.01, 1e-4), (210, 0.04, 5e-4)])
def test_places_without_smoke_are_left_out_and_nothing_is_missed(size: int, worst: float, mean: float) -> None:
    """As a march that samples every place of every pixel, with one ray a pixel and with one for several."""
    moved = air()
    for _ in range(30):
        moved.step(1 / 48)
    camera = Camera.static(1, size, size, eye=np.array([0.3, -2.0, 0.6]), target=np.array([0.0, 0.0, 0.4]), fov=30)
    volume = SmokeVolume(BOX, moved.smoke[None], 15.0, (1.0, 1.0, 1.0))
    depth = np.full((size, size), 2.1)
    opacity, _ = volume.opacity_and_brightness(0, camera, depth)
    row, column = np.mgrid[:size, :size] + 0.5
    rays = camera.directions(0, np.stack([column.ravel(), row.ravel()], axis=1))
    low, high = volume._occupied_box(0)
    start = camera.origin(0) - np.array(BOX.corner)
    with np.errstate(divide="ignore"):
        ends = np.stack([(low - start) / rays, (high - start) / rays])
    near, far = ends.min(axis=0).max(axis=1), np.minimum(ends.max(axis=0).min(axis=1), 2.1)
    distance = near[:, None] + np.maximum(far - near, 0)[:, None] * (np.arange(STEPS) + 0.5) / STEPS
    places = (start + rays[:, None] * distance[..., None]) / BOX.cell - 0.5
    density = map_coordinates(moved.smoke, np.moveaxis(places, -1, 0), order=1, mode="constant")
    way = np.linalg.norm(rays, axis=1) * np.maximum(far - near, 0) / STEPS
    expected = 1 - np.exp(-15.0 * density.sum(axis=1) * way)
    assert 0.02 < (expected > 0.5).mean() < 0.5 and (expected == 0).mean() > 0.2
    error = np.abs(opacity.ravel() - expected)
    assert error.max() < worst and error.mean() < mean


def test_no_smoke_is_nothing() -> None:
    camera = Camera.static(1, 9, 9, eye=np.array([0.0, -2.0, 0.5]), target=np.array([0.0, 0.0, 0.5]), fov=40)
    volume = SmokeVolume(BOX, np.zeros((1, 24, 24, 24), dtype=np.float32), 9.0, (1.0, 1.0, 1.0))
    assert not volume.opacity_and_brightness(0, camera, np.full((9, 9), np.inf))[0].any()


def test_truth_behind_smoke_is_masked_and_its_opacity_kept() -> None:
    config = SimulateConfig(families=("smoke",), size=(SIZE, SIZE), frames=13, fps=20, seed=1)
    found, raster = sample_scene(config, 0), Rasteriser(SIZE, SIZE)
    camera = found.scene.view.camera(13, SIZE, SIZE, 20)
    truth = measure(found.meshes, camera)
    assert truth.opacity is not None and truth.depth_valid.mean() >= 0.8
    thick = truth.opacity > 255 * CLEAR + 1
    assert 0.02 < thick.mean() < 0.2
    assert not (truth.depth_valid & thick).any() and truth.depth_valid[truth.opacity == 0].all()
    for mask in (truth.flow_valid, truth.dz_valid, truth.visible, truth.moving):
        assert not (mask & thick[:-1]).any()
    stored = blob.decode(blob.encode(truth.stored(), blob.QUANTISATION))
    assert np.array_equal(stored["opacity"], truth.opacity)
    again = sample_scene(config, 0).meshes
    pictures = [render(meshes, camera, found.scene.light, raster) for meshes in (found.meshes, again)]
    assert np.array_equal(*pictures)
    bare = render(type(again)(**{**vars_of(again), "smoke": None}), camera, found.scene.light, raster)
    assert np.array_equal(bare[truth.opacity == 0], pictures[0][truth.opacity == 0])
    assert np.abs(bare[thick].astype(int) - pictures[0][thick]).mean() > 3


def vars_of(meshes: object) -> dict[str, object]:
    return {name: getattr(meshes, name) for name in meshes.__dataclass_fields__}  # type: ignore[attr-defined]
