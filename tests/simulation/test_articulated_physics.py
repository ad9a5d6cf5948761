"""Machines against formulas: pendulum periods, a door's deceleration, joint distances, a crank's slider."""

from collections.abc import Callable, Iterator
from math import pi, sqrt

import mujoco
import numpy as np
import pytest

from phys4d.simulation.articulated.cabinet import HINGE_FRICTION, cabinet
from phys4d.simulation.articulated.crank import crank
from phys4d.simulation.articulated.double_pendulum import double_pendulum
from phys4d.simulation.articulated.figure import figure
from phys4d.simulation.articulated.linkage import add_geom, add_hinge, add_link, sample_material, set_joint_state
from phys4d.simulation.articulated.seesaw import seesaw
from phys4d.simulation.caption import TURNING
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout, run_model
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import GRAVITY, Scene
from phys4d.simulation.scenery import sampling


def scenes(family: Callable[[np.random.Generator], Scene], count: int) -> Iterator[MujocoScene]:
    for index in range(count):
        scene = family(keyed_rng(41, index))
        assert isinstance(scene, MujocoScene)
        yield scene


def rollout(scene: MujocoScene, frames: int, fps: float) -> Rollout:
    return run_model(scene.model, frames, fps, steps_per_second=scene.steps_per_second, start=scene.start)


def turning(track: Track) -> np.ndarray:
    """Angular speed [T - 1] in rad/frame."""
    cosine = np.abs((track.quaternion[1:] * track.quaternion[:-1]).sum(axis=1))
    return 2 * np.arccos(np.clip(cosine, 0, 1))


def ends(track: Track, half: float) -> tuple[np.ndarray, np.ndarray]:
    """World places [T, 3] of the points `half` above and below a part's centre along its own z."""
    along = half * track.rotation()[:, :, 2]
    return track.position + along, track.position - along


@pytest.mark.parametrize("length", [0.2, 0.5])
def test_a_bar_swings_with_the_period_of_a_compound_pendulum(length: float) -> None:
    """2 pi sqrt(I / (m g d)) for small angles."""
    random = np.random.default_rng(0)
    model = Mjcf(sampling.room(random), integrator="RK4")
    bar = add_link(model.world, "bar", (0, 0, 1))
    add_hinge(bar, "hinge", (0, 1, 0))
    add_geom(
        bar,
        "bar",
        "box",
        (0.03, 0.02, length / 2),
        (0, 0, -length / 2),
        material=sample_material(random, "red", ("wood",)),
    )
    fps = 400
    seen = run_model(model.text(), 2 * fps, fps, steps_per_second=fps, start=set_joint_state({"hinge": 0.03}))
    sideways = seen.geoms["bar"].position[:, 0]
    crossing = np.flatnonzero(np.diff(np.sign(sideways)))
    exact = crossing - sideways[crossing] / (sideways[crossing + 1] - sideways[crossing])
    period = 2 * np.diff(exact).mean() / fps
    over_mass = (length**2 + 0.06**2) / 12 + (length / 2) ** 2
    assert period == pytest.approx(2 * pi * sqrt(over_mass / (GRAVITY * length / 2)), rel=1e-3)


def test_a_double_pendulum_keeps_its_energy_and_its_joint() -> None:
    for scene in scenes(double_pendulum, 4):
        seen = rollout(scene, 60, 30)
        fallen = np.ptp(seen.geoms["disc"].position[:, 2])
        weight = GRAVITY * float(seen.model.body_mass.sum())
        assert np.ptp(seen.energy) < 1e-4 * fallen * weight
        upper, lower = scene.physics["lengths"]
        _, elbow = ends(seen.geoms["upper"], upper / 2)
        top, _ = ends(seen.geoms["lower"], lower / 2)
        # The bars lie one behind the other, always by the same distance.
        assert np.ptp(np.linalg.norm(elbow - top, axis=1)) < 1e-9
        assert turning(seen.geoms["lower"]).sum() > 1


def test_a_door_slows_down_as_its_hinge_rubs_and_stops_at_the_cabinet() -> None:
    """The angular deceleration is the hinge's friction over the moment of inertia."""
    tested = 0
    for scene in scenes(cabinet, 12):
        if len(scene.scene_objects) > 2:
            continue
        fps = 120
        seen = rollout(scene, 100, fps)
        speed = turning(seen.geoms["leaf"]) * fps
        stated = TURNING.search(scene.sentence())
        assert stated is not None and speed[0] == pytest.approx(2 * pi * float(stated[2]), rel=0.02)
        free = slice(2, int(0.25 * fps))
        slowing = -np.polyfit(np.arange(len(speed))[free] / fps, speed[free], 1)[0]
        assert slowing == pytest.approx(HINGE_FRICTION / seen.model.dof_M0[0], rel=0.1)
        leaf, top = (seen.geoms[name].rotation()[:, :, 0] for name in ("leaf", "top"))
        assert (np.cross(top, leaf)[:, 2] * np.sign(np.cross(top[0], leaf[0])[2])).min() > -0.05
        tested += 1
    assert tested >= 3


def test_joints_stay_within_their_limits_and_hold_together() -> None:
    for scene in scenes(figure, 4):
        model = mujoco.MjModel.from_xml_string(scene.model)
        model.opt.timestep = 1 / scene.steps_per_second
        data = mujoco.MjData(model)
        assert scene.start is not None
        scene.start(model, data)
        limited = np.flatnonzero(model.jnt_limited)
        assert len(limited) == 16
        for _ in range(40):
            mujoco.mj_step(model, data, scene.steps_per_second // 40)
            angle = data.qpos[model.jnt_qposadr[limited]]
            low, high = model.jnt_range[limited].T
            assert (angle > low - 0.1).all() and (angle < high + 0.1).all()
        head, chest = data.body("head").xpos, data.body("chest").xpos
        assert np.linalg.norm(head - chest) == pytest.approx(0.26 * scene.physics["height"], rel=1e-9)
        planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE  # floor and walls
        assert data.geom_xpos[~planes, 2].min() > 0


def test_a_slider_goes_where_its_crank_and_rod_put_it() -> None:
    """x = r cos a + sqrt(l^2 - r^2 sin^2 a), and its stroke is twice the crank."""
    for scene in scenes(crank, 4):
        seen = rollout(scene, 100, 50)
        arm, rod = scene.physics["crank"], scene.physics["rod"]
        axle, slider = seen.geoms["wheel"].position[0], seen.geoms["slider"].position
        away = slider[0] - axle
        along = (slider[-1] - slider[0]) + (slider[len(slider) // 3] - slider[0])
        ahead = np.array([*away[:2], 0.0]) if np.linalg.norm(along) < 1e-3 else np.array([*along[:2], 0.0])
        ahead = ahead / np.linalg.norm(ahead)
        ahead = ahead * np.sign(ahead @ away)
        x = (slider - axle) @ ahead
        pin = seen.geoms["pin"].position - axle
        cosine, sine = pin @ ahead / arm, pin[:, 2] / arm
        assert x == pytest.approx(arm * cosine + np.sqrt(rod**2 - (arm * sine) ** 2), abs=1e-3)
        assert np.ptp(x) == pytest.approx(2 * arm, rel=0.02)
        stated = TURNING.search(scene.sentence())
        assert stated is not None
        assert turning(seen.geoms["wheel"])[0] * 50 == pytest.approx(2 * pi * float(stated[2]), rel=0.1)
        assert np.ptp(seen.energy) < 1e-3 * seen.energy[0]


def test_a_ball_above_a_seesaw_falls_freely_while_all_else_rests() -> None:
    for scene in scenes(seesaw, 4):
        fps = 120
        seen = rollout(scene, 16, fps)
        time = np.arange(16) / fps
        ball = seen.geoms["ball"].position[:, 2]
        assert ball == pytest.approx(ball[0] - GRAVITY * time**2 / 2, abs=6e-3)
        for name in ("board", "lying"):
            assert np.abs(seen.geoms[name].position - seen.geoms[name].position[0]).max() < 2e-3
