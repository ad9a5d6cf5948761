"""Rejected samples: a failing simulator, objects without motion, objects that leave the image."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, add_body
from phys4d.simulation.mujoco_scenes.rollout import check_energy, run_model
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import Unstable, Unusable
from phys4d.simulation.scenery import sampling
from phys4d.simulation.screening import check_visible_motion

FRAMES, FPS = 9, 24.0
BALL = 3  # its instance


def scene(height: float = 0.8, **changed: object) -> MujocoScene:
    """A ball that falls in the middle of the picture."""
    random = keyed_rng(1, 2)
    view, room, light = sampling.view(random), sampling.room(random), sampling.light(random)
    ball = sampling.body(random, "ball", "red", (0.2,), np.array([0, 0.1, height]))
    model = Mjcf(room)
    add_body(model.world, ball, "ball")
    made = MujocoScene(
        category_name="rigid", family="test", room=room, view=view, light=light,
        scene_objects=(object_from_body(ball, "ball"),),
        model=model.text(), caption="a ball falls", steps_per_second=480, rejection_reason=lambda rollout: None,
    )  # fmt: skip
    return replace(made, **changed)


def test_a_fall_is_usable_and_says_what_it_is() -> None:
    made = scene()
    assert not made.badly_framed()
    meshes = made.simulate(FRAMES, FPS, 2)
    height = meshes.tracks[BALL].position[:, 2]
    time = np.arange(FRAMES) / FPS
    assert height == pytest.approx(0.8 - 9.81 * time**2 / 2, abs=0.01)
    assert made.objects()[0]["instance"] == BALL and made.sentence() == "a ball falls"


def test_what_the_caption_announces_and_does_not_come_is_unusable() -> None:
    with pytest.raises(Unusable, match="it stays"):
        scene(rejection_reason=lambda rollout: "it stays").simulate(FRAMES, FPS, 2)


@pytest.mark.parametrize(
    ("start", "before_step", "reason"),
    [
        (lambda m, d: d.qvel.fill(1e11), None, "MuJoCo warned: .*badqvel"),
        (None, lambda m, d: d.qfrc_applied.__setitem__(2, 2000.0), "energy grows"),
        (lambda m, d: d.qpos.__setitem__(2, 0.1), None, "things pass into each other"),
    ],
)
def test_a_simulator_that_fails_is_unstable(start: object, before_step: object, reason: str) -> None:
    with pytest.raises(Unstable, match=reason):
        scene(start=start, before_step=before_step).simulate(FRAMES, FPS, 2)


def test_energy_may_be_lost_but_not_gained() -> None:
    check_energy(np.array([10.0, 9.0, 5.0, 5.0]))
    check_energy(np.array([10.0, 10.0004]))
    with pytest.raises(Unstable, match="energy grows"):
        check_energy(np.array([10.0, 9.0, 10.2]))


def moved(way: np.ndarray) -> tuple[MujocoScene, MeshSequence]:
    """The ball's vertices moved along a way [T, 3] instead."""
    made = scene()
    meshes = made.simulate(FRAMES, FPS, 2)
    mine = np.unique(meshes.faces[meshes.instance == BALL])
    vertices = meshes.vertices.copy()
    vertices[:, mine] = vertices[0, mine] + way[:, None]
    return made, replace(meshes, vertices=vertices)


@pytest.mark.parametrize(
    ("to", "reason"),
    [((0, 0, 0), "too little moves"), ((1.8, 0, 0), "leaves the picture"), ((0, -1.3, 0), "too close to the camera")],
)
def test_what_does_not_show_is_unusable(to: tuple[float, float, float], reason: str) -> None:
    made, meshes = moved(np.linspace(0, 1, FRAMES)[:, None] * np.array(to))
    with pytest.raises(Unusable, match=reason):
        check_visible_motion(made, meshes, [BALL], FPS)


def test_what_begins_outside_the_picture_is_badly_framed() -> None:
    assert scene(height=2.5).badly_framed()


def test_a_frame_is_a_whole_number_of_equal_steps() -> None:
    seen = []
    run_model(
        scene().model, 3, 25.0, steps_per_second=480, before_step=lambda model, data: seen.append(model.opt.timestep)
    )
    assert len(seen) == 2 * 20 and set(seen) == {1 / 500}
    assert mujoco.MjModel.from_xml_string(scene().model).opt.disableflags & mujoco.mjtDisableBit.mjDSBL_AUTORESET
