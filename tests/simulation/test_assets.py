"""Meshes of the user in scenes: exact in picture and truth, solid, named, licensed; unusable ones are refused."""

import json
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import trimesh

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.card import write_card
from phys4d.engine.errors import UserError
from phys4d.simulation.assets import read_library
from phys4d.simulation.caption import caption
from phys4d.simulation.clip import measure
from phys4d.simulation.generate import SimulateConfig, sample_scene, simulate
from phys4d.simulation.metadata import clip_metadata
from phys4d.simulation.rigid.dynamics import simulate_tracks, to_mjcf
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY
from phys4d.simulation.scenery.asset_bodies import RADIUS
from phys4d.simulation.scenery.clutter import ASSET_SIDE
from tests.simulation.nearest_face import wrong_surfaces, wrong_visibilities

SIZE, FRAMES = 64, 17


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ring, a brick of 3 m, and an open bowl, with a licence."""
    path = tmp_path_factory.mktemp("meshes")
    (path / "LICENSE.txt").write_text("\nCC0 1.0 Universal\n")
    trimesh.creation.annulus(0.05, 0.12, 0.1).export(path / "coffee_ring2.glb")
    trimesh.creation.box((1.0, 3.0, 2.0)).export(path / "giantBrick.obj")
    bowl = trimesh.creation.icosphere(2, 0.2)
    bowl.update_faces(bowl.triangles_center[:, 1] < 0)
    bowl.export(path / "open bowl.obj")
    return path


def config(folder: Path, family: str, **settings: object) -> SimulateConfig:
    values = {"families": (family,), "clips": 2, "size": (SIZE, SIZE), "frames": FRAMES, "seed": 3, "assets": folder}
    return SimulateConfig(**(values | settings))  # type: ignore[arg-type]


def test_names_units_axes_and_closedness(folder: Path) -> None:
    """Half extents of 0.5, 1.5 and 1 m along x, y (up) and z of the file are along x, z and y of the scene."""
    ring, brick, bowl = read_library(folder).meshes
    assert [mesh.name for mesh in (ring, brick, bowl)] == ["coffee ring", "giant brick", "open bowl"]
    assert brick.size == pytest.approx((0.5, 1.0, 1.5)) and brick.volume == pytest.approx(6.0)
    assert bowl.volume is None and read_library(folder).bodies == (ring, brick)
    assert bowl.vertices[:, 2].max() < 0.15  # open upwards: the half below the file's y = 0 is below
    assert np.diag(brick.inertia) == pytest.approx([6 / 12 * (4 + 9), 6 / 12 * (1 + 9), 6 / 12 * (1 + 4)])
    half = brick.in_range(3.0, 0.5, 1.5)
    assert half.about["scale"] == 0.5 and half.size == pytest.approx((0.25, 0.5, 0.75))
    assert half.volume == pytest.approx(0.75) and half.inertia == pytest.approx(brick.inertia / 32)
    assert half.depth(np.array([[0.0, 0, 0.7], [0, 0, 0.8], [0, 0.1, 0]])) == pytest.approx([0.05, -0.05, 0.25])
    assert ring.in_range(0.2, 0.1, 0.3).about["scale"] == 1.0
    assert ring.depth(np.zeros((1, 3)))[0] > 0, "the hull has no hole"


def test_a_mesh_is_turned_and_not_mirrored(tmp_path: Path) -> None:
    (tmp_path / "COPYING").write_text("MIT")
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    lines = [f"v {x} {y} {z}" for x, y, z in corners]
    (tmp_path / "wedge.obj").write_text("\n".join([*lines, "f 1 3 2", "f 1 2 4", "f 1 4 3", "f 2 3 4"]))
    (wedge,) = read_library(tmp_path).meshes
    expected = [[0, 0, 0], [1, 0, 0], [0, 0, 2], [0, -3, 0]] - np.array([0.25, -0.75, 0.5])
    assert np.unique(np.round(wedge.vertices, 6), axis=0) == pytest.approx(np.unique(expected, axis=0))
    a, b, c = (wedge.vertices[wedge.faces[:, k]] for k in range(3))
    assert ((np.cross(b - a, c - a) * a).sum(axis=1) > 0).all(), "faces are counterclockwise from outside"


def test_mujoco_has_the_inertia_of_the_mesh(folder: Path) -> None:
    scene = sample_scene(config(folder, "fall", clutter="none", assets=_closed(folder)), 0).scene
    assert isinstance(scene, RigidScene) and scene.bodies[0].asset is not None
    body, model = scene.bodies[0], mujoco.MjModel.from_xml_string(to_mjcf(scene))
    expected = np.linalg.eigvalsh(body.density * body.asset.inertia)
    assert np.sort(model.body_inertia[1]) == pytest.approx(expected) and model.body_mass[1] == pytest.approx(body.mass)
    assert model.body_ipos[1] == pytest.approx(np.zeros(3))


@pytest.mark.parametrize("family", ["fall", "cover", pytest.param("dam_break", marks=pytest.mark.slow)])
def test_truth_is_exact(folder: Path, family: str) -> None:
    shown: set[str] = set()
    faces = {mesh.about["file"]: len(mesh.faces) for mesh in read_library(folder).meshes}
    for index in range(8):
        if shown:
            break
        found = sample_scene(config(folder, family, clutter="varied"), index)
        camera = found.scene.view.camera(FRAMES, SIZE, SIZE, 24)
        truth = measure(found.meshes, camera)
        assert not wrong_surfaces(found.meshes, camera, truth)
        assert not wrong_visibilities(found.meshes, camera, truth)
        for entry in clip_metadata(found.scene, found.meshes, camera, 24)["objects"]:
            if "asset" in entry and (truth.instance == entry["instance"]).any():
                shown.add(entry["asset"]["file"])
                assert (found.meshes.instance == entry["instance"]).sum() == faces[entry["asset"]["file"]], "all faces"
                assert entry["name"].split(" ", 2)[2] in caption(found.scene)
                assert entry["asset"]["licence"] == "CC0 1.0 Universal" and entry["asset"]["scale"] > 0
    assert shown


def test_sizes_are_in_the_ranges_of_the_scene(folder: Path) -> None:
    bodies, sides = set(), []
    for index in range(4):
        scene = sample_scene(config(folder, "fall", clutter="varied"), index).scene
        assert isinstance(scene, RigidScene) and scene.bodies[0].asset is not None
        asset = scene.bodies[0].asset
        bodies.add(asset.name)
        assert RADIUS[0] - 1e-9 <= asset.radius <= RADIUS[1] + 1e-9
        sides += [np.ptp(prop.asset.vertices, axis=0).max() for prop in scene.props if prop.asset is not None]
    assert bodies <= {"coffee ring", "giant brick"}, "only closed meshes can fall"
    assert sides and min(sides) >= ASSET_SIDE[0] - 1e-9 and max(sides) <= ASSET_SIDE[1] + 1e-9


def test_a_brick_from_a_file_falls_as_a_box_does(folder: Path) -> None:
    """The same brick as MuJoCo's own box: the centres stay within 2 mm until the first contact and land as high."""
    settings = config(folder, "fall", clutter="none", assets=_closed(folder))
    falling = [sample_scene(settings, index).scene for index in range(6)]
    scene = next(each for each in falling if isinstance(each, RigidScene) and "brick" in each.bodies[0].name)
    scene = replace(scene, bodies=scene.bodies[:1])
    body = replace(scene.bodies[0], quaternion=(1.0, 0.0, 0.0, 0.0), velocity=(0.0, 0.0, 0.0))
    box = replace(body, asset=None, shape="box")
    assert body.mass == pytest.approx(box.mass)
    ways = [simulate_tracks(replace(scene, bodies=(each,)), 40, 24)[FIRST_BODY].position for each in (body, box)]
    assert np.abs(ways[0][:, 2] - ways[1][:, 2]).max() < 2e-3
    assert ways[0][-1, 2] == pytest.approx(body.size[2], abs=5e-3), "it lies on its lower side"


def _closed(folder: Path) -> Path:
    """A folder beside `folder` without the open mesh."""
    path = folder.parent / f"{folder.name}-closed"
    path.mkdir(exist_ok=True)
    for name in ("LICENSE.txt", "coffee_ring2.glb", "giantBrick.obj"):
        (path / name).write_bytes((folder / name).read_bytes())
    return path


def test_json_card_and_settings_state_the_meshes(folder: Path, tmp_path: Path) -> None:
    chosen = config(folder, "fall", clips=1, truth=False)
    simulate(chosen, tmp_path / "out", workers=1)
    meta = ClipDataset(tmp_path / "out").meta(0)
    assert [each["name"] for each in meta["provenance"]["assets"]] == ["coffee ring", "giant brick", "open bowl"]
    card = write_card(tmp_path / "out", licence="mit").read_text()
    assert "| giant brick | giantBrick.obj | CC0 1.0 Universal |" in card
    assert str(folder) not in json.dumps(meta) + card


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mug.obj", "v 0 0 0\n", "mug.obj: "),
        ("mug.obj", "nothing", "mug.obj: "),
        ("mug.glb", "glTF and no more", "mug.glb: cannot be read as a mesh"),
        ("mug.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "mug.obj: is flat"),
        ("mug.obj", "v 0 0 0\nv 1 0 0\nv 0 1 nan\nv 0 0 1\nf 1 2 3\nf 1 2 4\n", "mug.obj: has vertices that are not"),
        ("12.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n", "12.obj: its name has no word"),
        ("mug.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n", "mug.obj: is not watertight"),
        ("mug.txt", "", "has no .obj or .glb file"),
    ],
)  # fmt: skip
def test_unusable_meshes_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "licence").write_text("MIT")
    (folder / name).write_text(text)
    arguments = ["--clips", "1", "--clutter", "none", "--assets", str(folder), "--out", str(tmp_path / "out")]
    assert main(["simulate", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_licence_is_required(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "mug.glb").write_bytes((folder / "coffee_ring2.glb").read_bytes())
    with pytest.raises(UserError, match="has no licence file"):
        read_library(tmp_path)
    (tmp_path / "LICENSE").write_text(" \n")
    with pytest.raises(UserError, match="is empty"):
        read_library(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_library(tmp_path / "none")
    (tmp_path / "LICENSE").write_text("MIT\n")
    (tmp_path / "Mug2.glb").write_bytes((folder / "coffee_ring2.glb").read_bytes())
    with pytest.raises(UserError, match="rename one"):
        read_library(tmp_path)
