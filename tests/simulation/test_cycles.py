"""What Blender is given: cameras, meshes, materials, lights; and, with bpy, that its geometry is that of the truth.

Name such a Python in PHYS4D_CYCLES_PYTHON, or run the tests in one; the tests that need it are skipped without.
"""

import importlib.util
import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.clip_index import ClipIndex
from phys4d.engine.data.tools.card import write_card
from phys4d.engine.errors import UserError
from phys4d.simulation import shapes
from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.clip import measure
from phys4d.simulation.cycles import process
from phys4d.simulation.cycles.description import LAYER, LAYERS, Description, describe, lights_of
from phys4d.simulation.cycles.materials import surface_of
from phys4d.simulation.generate import _recipe, make_clip, sample_scene, simulate
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.rejection_sampling import SampledScene, keyed_rng
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.settings import SimulateConfig

NAMED = os.environ.get("PHYS4D_CYCLES_PYTHON")
PYTHON = Path(NAMED) if NAMED else None
needs_bpy = pytest.mark.skipif(
    not NAMED and importlib.util.find_spec("bpy") is None,
    reason="bpy is not installed, and PHYS4D_CYCLES_PYTHON names no Python that has it",
)
SIZE, FRAMES, FPS = 48, 13, 24


@cache
def clip(family: str, seed: int = 2) -> tuple[SampledScene, Camera, Description]:
    config = SimulateConfig(
        families=(family,), seed=seed, frames=FRAMES, camera="moving", size=(SIZE, 64), clutter="varied"
    )
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(FRAMES, SIZE, 64, FPS)
    return found, camera, describe(found.scene, found.meshes, camera, np.random.default_rng(0))


@pytest.mark.parametrize("family", ["fall", "cover", "hot_bar"])
def test_cameras_project_as_those_of_the_truth(family: str) -> None:
    """Points through Blender's own camera model: axes right, up, back; focal length and shift over the width."""
    _, camera, described = clip(family)
    points = np.random.default_rng(1).uniform([-0.5, -0.3, 0], [0.5, 0.5, 0.8], (50, 3))
    for t in (0, FRAMES - 1):
        expected, depth = camera.project(t, points)
        local = (points - described.pose[t, :3, 3]) @ described.pose[t, :3, :3]
        focal, right, up = described.lens[t]
        x = (local[:, 0] / -local[:, 2] * focal - right) * described.width + described.width / 2
        y = described.height / 2 - (local[:, 1] / -local[:, 2] * focal - up) * described.width
        assert np.linalg.det(described.pose[t, :3, :3]) == pytest.approx(1.0)
        assert np.abs(np.stack([x, y], axis=1) - expected).max() < 1e-9
        assert -local[:, 2] == pytest.approx(depth)


def test_an_off_centre_principal_point_shifts_the_lens() -> None:
    found, camera, _ = clip("fall")
    moved = camera.intrinsics.copy()
    moved[:, 0, 2] -= 4.0
    moved[:, 1, 2] += 3.0
    lens = describe(found.scene, found.meshes, replace(camera, intrinsics=moved), np.random.default_rng(0)).lens
    assert lens[0, 1:] == pytest.approx([4 / 64, 3 / 64])
    moved[:, 0, 0] *= 1.01
    with pytest.raises(ValueError, match="square pixels"):
        describe(found.scene, found.meshes, replace(camera, intrinsics=moved), np.random.default_rng(0))


@pytest.mark.parametrize("family", ["fall", "cover", "cabinet", "hot_bar"])
def test_parts_are_all_faces_of_the_sequence(family: str) -> None:
    found, _, described = clip(family)
    meshes = found.meshes
    for t in (0, FRAMES - 1):
        mine = [
            np.column_stack([
                part.vertices[min(t, len(part.vertices) - 1)][part.faces].reshape(-1, 9),
                np.full(len(part.faces), part.instance),
            ])
            for part in described.parts
        ]  # fmt: skip
        theirs = np.column_stack([meshes.vertices[t][meshes.faces].reshape(-1, 9).astype(np.float32), meshes.instance])
        distance, which = cKDTree(theirs).query(np.concatenate(mine))
        assert sum(map(len, mine)) == len(theirs) == len(np.unique(which))
        assert distance.max() < 3 * LAYER * LAYERS, "in the same places but for coplanar sides"
    assert all(len(part.vertices) == 1 for part in described.parts if part.instance <= 2)
    assert any(len(part.vertices) == FRAMES for part in described.parts)
    assert sum(part.ceiling for part in described.parts) == 1
    ceiling = next(part for part in described.parts if part.ceiling)
    assert (ceiling.vertices[..., 2] == np.float32(found.scene.room.height)).all()


def test_materials_follow_what_is_stated() -> None:
    steel, rubber = surface_of(Texture.METAL, "red steel ball"), surface_of(Texture.BANDS, "red rubber ball")
    assert steel.metallic == 1 and rubber.metallic == 0 and steel.roughness < rubber.roughness
    for name, ior in (("water", 1.33), ("more honey", 1.49)):
        clear = surface_of(Texture.WATER, name)
        assert (clear.transmission, clear.ior) == (1.0, ior)
    assert surface_of(Texture.WATER, "milk").transmission == 0 and surface_of(Texture.WATER, "tar").transmission == 0
    assert surface_of(Texture.GLOW, "bar").glow > 0
    assert [surface_of(texture, "").pattern for texture in Texture] == [texture.name for texture in Texture]
    assert all(surface_of(texture, "").glow == 0 for texture in Texture if texture != Texture.GLOW)


def test_only_clear_liquids_refract() -> None:
    seen = {}
    for seed in (0, 1, 2, 3, 4):
        scene = FAMILIES["dam_break"](keyed_rng(seed, 0, 0))
        (liquid,) = scene.objects()
        vertices, faces = shapes.mesh("ball", (0.1,), 0)
        bead = InstanceMesh(vertices, faces, vertices, liquid["instance"], (0.2, 0.4, 0.8), Texture.WATER)
        camera = scene.view.camera(1, SIZE, SIZE, FPS)
        described = describe(scene, assemble(scene, [bead], 1, 1), camera, np.random.default_rng(0))
        seen[liquid["name"]] = described.refracting == [liquid["instance"]]
    assert seen == {"green tea": True, "red wine": True, "water": True, "orange juice": False, "milk": False}


def test_light_is_a_sky_or_lamps_inside_the_room() -> None:
    found, camera, _ = clip("fall")
    kinds = set()
    for seed in range(12):
        described = describe(found.scene, found.meshes, camera, np.random.default_rng(seed))
        again = describe(found.scene, found.meshes, camera, np.random.default_rng(seed))
        assert (described.lights, described.sky) == (again.lights, again.sky)
        kinds.add((described.sky is None, tuple(light["kind"] for light in described.lights)))
        assert all(light["power"] > 0 for light in described.lights)
    assert kinds == {(True, ("area", "area")), (False, ("sun",))}
    room, light = replace(found.scene.room, depth=1.0), found.scene.light
    for steep in (0.0, 0.3, 3.0):
        for lamp in lights_of(room, replace(light, direction=(steep, -steep, -1.0))):
            assert room.clearance(np.array([lamp["position"]]))[0] > 0
    lamp = lights_of(room, replace(light, direction=(0.0, 0.0, -1.0)))[0]
    assert lamp["position"][:2] == pytest.approx(light.focus[:2]) and lamp["direction"] == [0.0, 0.0, -1.0]


def test_the_default_renderer_keeps_its_recipe() -> None:
    """So that a dataset that was begun before goes on."""
    recipe = _recipe(SimulateConfig())
    assert not any(word in recipe for word in ("renderer", "samples", "cycles", "bpy", "assets"))


@pytest.mark.skipif(importlib.util.find_spec("bpy") is not None, reason="this Python has bpy")
def test_without_bpy_one_line_names_the_extra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["simulate", "--clips", "1", "--renderer", "cycles", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert 'pip install "phys4d[cycles]"' in error and error.count("\n") == 0
    assert main([*arguments, "--cycles-python", str(tmp_path / "none")]) == 2
    assert "none: cannot be run" in capsys.readouterr().err
    assert main([*arguments, "--samples", "0"]) == 2
    assert "samples" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_worker_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "blender_version", lambda python: "5")
    monkeypatch.setattr(process, "WORKER", tmp_path / "worker.py")
    (tmp_path / "worker.py").write_text("import sys; sys.exit('no memory left')")
    with pytest.raises(UserError, match="ended with code 1: no memory left"):
        process.pictures(clip("fall")[2], samples=1, seed=0, python=Path(sys.executable))
    (tmp_path / "worker.py").write_text("")
    with pytest.raises(UserError, match="ended with code 0"):
        process.pictures(clip("fall")[2], samples=1, seed=0, python=Path(sys.executable))


@needs_bpy
@pytest.mark.parametrize("family", ["fall", "cover", "hoist", "column", "hot_bar"])
def test_instances_agree_with_the_truth_pixel_by_pixel(family: str) -> None:
    """Through the middle of each pixel: the same instance, but where a ray passes within 0.05 pixels of an outline."""
    found, camera, described = clip(family)
    truth = measure(found.meshes, camera).instance
    drawn = process.pictures(described, samples=1, seed=0, python=PYTHON, instances=True)
    assert (drawn == drawn[..., :1]).all()
    wrong = np.argwhere(drawn[..., 0] != truth)
    edge = np.zeros(truth.shape, dtype=bool)
    for axis in (1, 2):
        differs = np.diff(truth, axis=axis) != 0
        for side in ((0, 1), (1, 0)):
            edge |= np.pad(differs, [side if each == axis else (0, 0) for each in range(3)])
    assert len(np.unique(truth)) > 3 and edge.mean() < 0.5
    assert all(edge[tuple(each)] for each in wrong), "away from outlines every pixel agrees"
    assert len(wrong) <= 1e-3 * truth.size, f"{len(wrong)} of {truth.size} pixels at outlines"


@needs_bpy
def test_pictures_are_equal_for_equal_seeds_and_show_light() -> None:
    _, _, described = clip("glowing_pendulum")
    one = replace(
        described, pose=described.pose[:1], lens=described.lens[:1],
        parts=[
            replace(part, vertices=part.vertices[:1], colour=part.colour.reshape(-1, *part.colour.shape[-2:])[0])
            for part in described.parts
        ],
    )  # fmt: skip
    first, again, other = (process.pictures(one, samples=2, seed=seed, python=PYTHON) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    dark = process.pictures(replace(one, lights=[], sky=None), samples=2, seed=1, python=PYTHON)
    assert 40 < first.mean() < 200
    assert 0.5 < dark.mean() < 0.5 * first.mean(), "what glows is the only light"


@needs_bpy
def test_a_dataset_states_its_renderer_and_keeps_its_truth(tmp_path: Path) -> None:
    settings = {"families": ("fall",), "clips": 1, "size": (32, 32), "frames": FRAMES, "seed": 2}
    traced = SimulateConfig(**settings, renderer="cycles", samples=1, cycles_python=PYTHON)  # type: ignore[arg-type]
    simulate(traced, tmp_path / "out", workers=1)
    plain = make_clip(SimulateConfig(**settings), 0)  # type: ignore[arg-type]
    dataset = ClipDataset(tmp_path / "out")
    row = ClipIndex(tmp_path / "out").row(0)
    assert dataset.member(row, "truth") == plain["truth"]
    assert dataset.member(row, "mp4") != plain["mp4"]
    provenance = dataset.meta(0)["provenance"]
    assert (provenance["renderer"], provenance["samples"], provenance["refracting"]) == ("cycles", 1, [])
    assert f"(bpy {provenance['bpy']})" in write_card(tmp_path / "out", licence="mit").read_text()
