"""Long clips: an event is judged by itself, however long its clip is, and later events keep something moving."""

from dataclasses import replace

import numpy as np
import pytest
from pytest import MonkeyPatch

from phys4d.simulation import later, rejection_sampling
from phys4d.simulation.caption import caption
from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.rejection_sampling import NoUsableScene, keyed_rng
from phys4d.simulation.rigid.dynamics import simulate_tracks
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY, GRAVITY, Scene, Unusable
from phys4d.simulation.scenery.materials import HUES
from phys4d.simulation.screening import EVENT, best_mean, check_visible_motion
from phys4d.simulation.thermodynamic.melting import MeltingScene

LONG = {"25@24": (25, 24), "49@8": (49, 8), "81@16": (81, 16), "81@24": (81, 24), "121@24": (121, 24)}
SLOW_TO_FALL = 1e-6  # metres by which a body may be off a free fall for each step of 1/1200 s


def lasting(family: str, seconds: float, seed: int = 5) -> Scene:
    """A scene of a family with its later events."""
    scene = FAMILIES[family](keyed_rng("later", seed))
    return scene.lasting(seconds, keyed_rng("later", seed, "later"))


def test_a_short_clip_has_no_later_event_and_the_last_one_of_a_long_clip_is_in_its_last_quarter() -> None:
    assert later.release_times(25 / 24, keyed_rng(1)) == ()
    for seed in range(20):
        for seconds in (81 / 24, 81 / 16, 121 / 24, 49 / 8):
            times = later.release_times(seconds, keyed_rng(seed))
            assert 0.75 * seconds < times[-1] < seconds - 0.3
            assert all(round(time, 1) == time for time in times)
            assert min(np.diff([0.0, *times])) > 1.0


def test_the_best_mean_is_that_of_consecutive_frames() -> None:
    share = np.array([0.0, 1.0, 2.0, 0.0, 0.0, 6.0])
    assert best_mean(share, 2) == 3.0 and best_mean(share, 3) == 2.0
    assert best_mean(share, 6.4) == 1.5 and best_mean(share, 100) == 1.5


def test_the_length_of_a_clip_does_not_decide_whether_its_event_is_seen() -> None:
    """A ball that falls at once and then rests: as a mean over five seconds it would hardly move."""
    config = SimulateConfig(families=("fall",), frames=17, seed=3)
    found = sample_scene(config, 0)
    meshes = found.meshes
    rest = np.repeat(meshes.vertices[-1:], 200, axis=0)
    longer: MeshSequence = replace(meshes, vertices=np.concatenate([meshes.vertices, rest]))
    check_visible_motion(found.scene, longer, [FIRST_BODY], config.fps)
    still = replace(meshes, vertices=np.repeat(meshes.vertices[:1], 217, axis=0))
    with pytest.raises(Unusable, match="too little moves"):
        check_visible_motion(found.scene, still, [FIRST_BODY], config.fps)
    assert round(EVENT * config.fps) < config.frames


@pytest.mark.parametrize("family", ["spin", "seesaw"])
def test_a_held_body_rests_exactly_and_then_falls_freely(family: str) -> None:
    scene = lasting(family, 5.0)
    assert len(scene.later) >= 1
    fps, first = 60, scene.later[0]
    frames = int((first.held_until + 0.1) * fps)
    if isinstance(scene, RigidScene):
        position = simulate_tracks(scene, frames, fps)[FIRST_BODY + len(scene.bodies)].position
    else:
        assert isinstance(scene, MujocoScene)
        position = scene._run(frames, fps).geoms[f"later{len(scene.later) - 1}"].position
    release = round(first.held_until * fps)
    assert (position[: release + 1] == position[0]).all()
    time = np.arange(frames - release) / fps
    fallen = position[0, 2] - position[release:, 2]
    assert fallen == pytest.approx(GRAVITY * time**2 / 2, abs=GRAVITY / 1200 * 0.1 + SLOW_TO_FALL)


@pytest.mark.parametrize("family", ["plough", "plunge"])
def test_settled_grains_begin_at_the_same_places_with_later_events(family: str) -> None:
    """Whose bodies are added to a model whose grains have settled before."""
    short = FAMILIES[family](keyed_rng("later", 5))
    scene = short.lasting(5.0, keyed_rng("later", 5, "later"))
    assert isinstance(short, MujocoScene) and isinstance(scene, MujocoScene) and len(scene.later) == 2
    before, after = short._run(1, 24.0), scene._run(1, 24.0)
    shared = [name for name in before.geoms if name in after.geoms]
    assert len(shared) > 1 and set(after.geoms) - set(before.geoms) >= {"later0", "later1"}
    for name in shared:
        assert (before.geoms[name].position == after.geoms[name].position).all()


def test_the_caption_states_every_later_event_and_the_first_frame_shows_it() -> None:
    scene = lasting("fall", 8.0)
    text = caption(scene)
    assert len(scene.later) == 3 and text.startswith(scene.sentence() + "; ")
    for body in scene.later:
        assert f"{body.name} " in text and f"after {body.held_until:.1f} s" in text
        pixel, depth = scene.view.camera(1, 1, 1, 1.0).project(0, np.array([body.position]))
        assert (np.abs(pixel - 0.5) < 0.5).all() and depth.min() > 0.5
    assert len({body.colour for body in (*scene.later, *scene.bodies)}) == len(scene.later) + len(scene.bodies)
    assert [prop.name for prop in scene.props].count("holder") == 3


def test_a_caption_that_names_every_colour_gets_a_body_that_it_does_not_name() -> None:
    """The row of dominoes of a long clip had no colour left, which ended the run."""
    scene = FAMILIES["fall"](keyed_rng("later", 5))
    nothing = later.Occupied((), (), np.empty((0, 3)))
    text = " ".join(f"a {hue} wood ball" for hue in HUES if hue != "pink") + " and a pink wood box"
    found = [later.sample(keyed_rng(seed), 3.0, scene.view, text, np.zeros(3), nothing) for seed in range(30)]
    bodies = [each[0] for each in found if each is not None]
    assert len(bodies) > 20 and {body.shape for body in bodies} == {"ball", "box", "cylinder", "capsule"}
    assert {body.colour for body in bodies if body.shape == "ball"} == {"pink"}
    assert "pink" not in {body.colour for body in bodies if body.shape == "box"}
    assert len({body.colour for body in bodies if body.shape == "box"}) > 1


def test_later_events_leave_the_event_as_it_is() -> None:
    short, long = (FAMILIES["topple"](keyed_rng("later", 5)), lasting("topple", 5.0))
    assert isinstance(short, RigidScene) and isinstance(long, RigidScene)
    assert short.bodies == long.bodies and short.sentence() == long.sentence()
    frames = int(min(body.held_until for body in long.later) * 24)
    before, after = simulate_tracks(short, frames, 24), simulate_tracks(long, frames, 24)
    for number in range(len(short.bodies)):  # elliptic cones are solved for all bodies at once, up to a tolerance
        assert before[FIRST_BODY + number].position == pytest.approx(after[FIRST_BODY + number].position, abs=5e-4)


@pytest.mark.parametrize("family", ["dam_break", "liquid_fall", "thick_fall", "channel"])
def test_a_box_above_a_liquid_opens_in_the_last_quarter(family: str) -> None:
    seed = 6 if family == "channel" else 5  # one with a place for the box
    short, scene = FAMILIES[family](keyed_rng("later", seed)), lasting(family, 5.0, seed)
    assert isinstance(short, FluidScene) and isinstance(scene, FluidScene)
    assert short.lasting(1.5, keyed_rng("later", 5)) == short
    assert scene.volumes[: len(short.volumes)] == short.volumes and scene.caption.startswith(short.caption)
    *_, plate = scene.kinematic_bodies
    time = plate.physics["opens_after"]
    assert 3.75 < time < 4.7 and f"; after {time:.1f} s the bottom of a box above slides open" in scene.sentence()
    rests, opens = plate.path(0.0)[0], plate.path(time + plate.physics["seconds"])[0]
    assert (plate.path(time)[0] == rests).all() and (plate.path(9.0)[0] == opens).all()
    held = scene.volumes[-1]
    sideways = np.linalg.norm(opens[:2] - rests[:2])
    assert sideways > plate.solids[0].size[0] + held.size[0]  # nothing of the plate is below the liquid
    assert rests[2] + plate.solids[0].size[2] == pytest.approx(held.position[2] - held.size[2])
    for prop in scene.props[len(short.props) : -1]:  # the liquid is inside of the four sides
        assert Solid(prop.shape, prop.size, prop.position, prop.quaternion).depth(held.outline()).max() < 1e-9


def test_a_tray_is_pushed_again_and_returns() -> None:
    short, scene = FAMILIES["slosh"](keyed_rng("later", 5)), lasting("slosh", 5.0)
    assert isinstance(short, FluidScene) and isinstance(scene, FluidScene)
    (before,), (tray,) = short.kinematic_bodies, scene.kinematic_bodies
    first, second = tray.physics["pushed_again_after"]
    seconds = tray.physics["seconds"]
    assert second > 3.75 and f"after {first:.1f} s and after {second:.1f} s" in scene.sentence()
    for time in np.linspace(0, first, 20):
        assert tray.path(time)[0] == pytest.approx(before.path(time)[0], abs=1e-12)
    assert tray.path(first + seconds)[0] == pytest.approx(before.path(0.0)[0], abs=1e-12)
    assert tray.path(second + seconds)[0] == pytest.approx(before.path(9.0)[0], abs=1e-12)


def test_heat_flows_more_slowly_in_a_long_melt_and_the_caption_says_so() -> None:
    short, scene = FAMILIES["melting_on_plate"](keyed_rng("later", 5)), lasting("melting_on_plate", 5.0)
    assert isinstance(short, MeltingScene) and isinstance(scene, MeltingScene)
    assert short.lasting(2.0, keyed_rng("later", 5)).sentence() == short.sentence()
    assert scene.diffusivity == pytest.approx(short.diffusivity / 2)
    assert scene.heaters[0].exchange == pytest.approx(short.heaters[0].exchange / 2)
    words = [text.sentence().split("goes ")[1].split(" times")[0] for text in (short, scene)]
    faster = [float(word.replace(",", "")) for word in words]
    assert faster[1] == pytest.approx(faster[0] / 2, rel=0.06)


def test_a_held_body_that_is_touched_is_found_out() -> None:
    scene = lasting("fall", 5.0)
    assert isinstance(scene, RigidScene)
    falling = scene.bodies[0]
    below = replace(scene.later[0], position=(falling.position[0], falling.position[1], 0.15))
    with pytest.raises(Unusable, match="a held body is touched"):
        simulate_tracks(replace(scene, bodies=(falling,), later=(below,)), 49, 24)


def moving_late(family: str, frames: int, fps: int, seed: int = 4242) -> bool:
    """Whether something moves in the picture in the last quarter of a family's clip."""
    found = sample_scene(SimulateConfig(families=(family,), frames=frames, fps=fps, seed=seed), 0)
    if found.meshes.smoke is not None:
        density = found.meshes.smoke.density
        return bool(np.abs(density[-1] - density[3 * frames // 4]).max() > 0.05)
    late = replace(found.scene.view.camera(frames, 1, 1, fps))
    faces = found.meshes.faces[found.meshes.instance >= FIRST_BODY]
    points = found.meshes.vertices[:, np.unique(faces)]
    for t in range(3 * frames // 4, frames - 1):
        pixel, _ = late.project(t + 1, points[t + 1])
        moves = np.linalg.norm(points[t + 1] - points[t], axis=1) * fps > 0.024
        if (moves & (np.abs(pixel - 0.5) < 0.5).all(axis=1)).sum() > 8:
            return True
    return False


@pytest.mark.parametrize("family", ["fall", "ramp", "hot_ball"])
def test_something_moves_in_the_last_quarter_of_five_seconds(family: str) -> None:
    assert moving_late(family, 121, 24)


@pytest.mark.slow
@pytest.mark.parametrize("length", LONG)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_drawn_at_the_lengths_at_which_backbones_train(family: str, length: str) -> None:
    frames, fps = LONG[length]
    found = sample_scene(SimulateConfig(families=(family,), frames=frames, fps=fps, seed=4242), 0)
    assert found.meshes.frames == frames
    assert found.attempt < 10


def test_a_family_that_cannot_be_drawn_is_named_with_its_reasons(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(rejection_sampling, "ATTEMPTS", 3)
    reasons = r"none of 3 scenes of family fall .*: too little moves \(3\): .*--on-refused skip"
    with pytest.raises(NoUsableScene, match=reasons):
        sample_scene(SimulateConfig(families=("fall",), frames=2, seed=1), 0)
