"""Furniture around an event: free of everything else, behind it, solid for every simulator, named in the caption."""

import numpy as np
import pytest

from phys4d.models.tiny.words import WordEncoder
from phys4d.simulation.body import Prop
from phys4d.simulation.caption import caption
from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.rigid.dynamics import simulate_tracks
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY, Scene, Unusable
from phys4d.simulation.scenery import clutter
from phys4d.simulation.scenery.clutter import KINDS, check_clear, with_clutter


def furnished(family: str, seed: int) -> Scene:
    return with_clutter(FAMILIES[family](keyed_rng(seed, 0, 0)), keyed_rng(seed, 0, 0, "clutter"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_a_thing_stands_on_the_floor_or_touches_another(kind: str) -> None:
    parts = [Prop("", shape, (0, 0, 0), 0, size, 0.5, centre) for shape, size, centre in KINDS[kind](1.0)]  # type: ignore[arg-type]
    solids = [Solid(part.shape, part.size, part.position) for part in parts]
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.4, -0.4, -1e-3], [0.4, 0.4, 1.2], (400_000, 3))
    inside = np.array([solid.depth(points) > -0.01 for solid in solids])
    met = (inside.astype(int) @ inside.T.astype(int)) > 0
    reached = (inside & (points[:, 2] < 0.01)).any(axis=1)
    for _ in parts:
        reached |= (met & reached).any(axis=1)
    assert reached.all()


def test_things_are_seen_behind_the_event_and_apart() -> None:
    """In 40 draws of families of several simulators."""
    several = 0
    for seed in range(10):
        for family in ("fall", "coil", "cover", "dam_break"):
            scene = furnished(family, seed)
            parts = sum(thing.props for thing in scene.clutter)
            several += len(scene.clutter) > 1
            camera = scene.view.camera(1, 1, 1, 1.0)
            behind = camera.project(0, np.array([scene.view.target]))[1][0]
            for prop in scene.props[len(scene.props) - parts :]:
                corners = clutter._corners(prop)
                assert camera.project(0, corners)[1].min() > behind
                assert scene.room.clearance(corners).min() > -1e-9
                assert np.linalg.norm(corners[:, :2], axis=1).min() > clutter.OFF - 0.06
            text = caption(scene)
            assert all(f"{thing.name} " in text and thing.side in text for thing in scene.clutter)
    assert several > 12


def test_a_thing_stops_what_rolls_against_it() -> None:
    made = (FAMILIES["collision"](keyed_rng(seed, 0, 0)) for seed in range(50))
    scene = next(one for one in made if isinstance(one, RigidScene) and one.bodies[0].shape == "ball")
    free = simulate_tracks(scene, 49, 24)[FIRST_BODY].position
    way = free[10, :2] - free[0, :2]
    place = free[0, :2] + 0.45 * way / np.linalg.norm(way)
    block = Prop("", "cylinder", (1, 1, 1), scene.room.floor_texture, (0.1, 0.4), 0.5, (*map(float, place), 0.4))
    stopped = simulate_tracks(scene.with_props([block]), 49, 24)[FIRST_BODY].position
    gap = np.linalg.norm(stopped[:, :2] - place, axis=1).min() - 0.1 - scene.bodies[0].size[0]
    assert -0.01 < gap < 0.12 and np.linalg.norm(free[:, :2] - place, axis=1).min() < 0.1


def test_a_soft_scene_knows_the_thing_as_an_obstacle() -> None:
    scene = furnished("coil", 1)
    assert isinstance(scene, MujocoScene) and scene.clutter
    model = scene._run(1, 24.0).model
    parts = sum(thing.props for thing in scene.clutter)
    found = model.geom_pos[[number for number in range(model.ngeom) if model.geom(number).name.startswith("around")]]
    assert found == pytest.approx(np.array([prop.position for prop in scene.props[-parts:]]))


def test_what_is_inside_a_thing_in_the_first_frame_is_drawn_again() -> None:
    config = SimulateConfig(families=("fall",), frames=9, seed=3, clutter="varied")
    found = next(sample for number in range(9) if (sample := sample_scene(config, number)).scene.clutter)
    check_clear(found.scene, found.meshes)
    place = np.array(found.scene.props[-1].position)
    vertices = found.meshes.vertices.copy()
    inside = np.unique(found.meshes.faces[found.meshes.instance == FIRST_BODY])
    vertices[:, inside] += place - vertices[0, inside].mean(axis=0)
    moved: MeshSequence = found.meshes.__class__(**{**vars(found.meshes), "vertices": vertices})
    with pytest.raises(Unusable, match="stands in the way"):
        check_clear(found.scene, moved)


def test_the_event_is_that_without_things() -> None:
    plain = SimulateConfig(families=("topple",), frames=9, seed=5)
    bare, with_things = sample_scene(plain, 0), sample_scene(plain.model_copy(update={"clutter": "varied"}), 0)
    assert with_things.scene.clutter and bare.scene.sentence() == with_things.scene.sentence()
    number = (bare.meshes.instance == FIRST_BODY).sum()
    assert (with_things.meshes.instance == FIRST_BODY).sum() == number
    assert caption(with_things.scene).startswith(caption(bare.scene) + "; a")


def test_half_of_the_clips_have_things_and_the_others_are_those_without() -> None:
    half, bare, all_of_them = (
        SimulateConfig(families=("spin",), frames=15, seed=5, clutter=clutter)  # type: ignore[arg-type]
        for clutter in ("half", "none", "varied")
    )
    assert SimulateConfig().clutter == "half"
    with_things = without = 0
    for number in range(12):
        found, plain, full = (caption(sample_scene(each, number).scene) for each in (half, bare, all_of_them))
        assert found in (plain, full)
        with_things += plain != full == found
        without += full != plain == found
    assert with_things >= 3 and without >= 3


@pytest.mark.parametrize("family", ["dominoes", "hot_bar"])
def test_a_caption_with_things_leaves_room_for_the_camera(family: str) -> None:
    """Encoders of the small models take 64 words."""
    words = [len(WordEncoder(tokens=200).split(caption(furnished(family, seed)))) for seed in range(40)]
    assert clutter.WORDS - clutter.EACH < max(words) <= clutter.WORDS
