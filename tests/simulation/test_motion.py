"""Rigid motion: meshes follow tracks, restitution is as specified, and unstable simulations are rejected."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phys4d.simulation.body import Body
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.rigid import FAMILIES
from phys4d.simulation.rigid.dynamics import damping_ratio, simulate_tracks
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY, Light, Room, Unstable, View
from phys4d.simulation.scenery.materials import MATERIALS

VIEW = View((0.3, -1.5, 1.0), (0, 0, 0.4), 45.0)
ROOM = Room((0.5, 0.5, 0.5), (0.4, 0.4, 0.4), depth=1.3, texture_angle=0.0)
LIGHT = Light((0, 0.3, -1), (0, 0, 0), 1.0, 0.4)
BALL = Body("ball", "wood", "red", (1, 0, 0), (0.2,), 600, 0.5, 0.5, (0, 0, 0.8))
FINE = 1200  # every step of the simulation


def scene(*bodies: Body) -> RigidScene:
    return RigidScene(family="fall", event="falls", bodies=bodies, room=ROOM, view=VIEW, light=LIGHT)


@pytest.mark.parametrize("shape,size", [("ball", (0.2,)), ("box", (0.16, 0.16, 0.16)), ("cylinder", (0.17, 0.16))])
@pytest.mark.parametrize("material", MATERIALS)
def test_a_body_leaves_the_floor_at_its_restitution(material: str, shape: str, size: tuple[float, ...]) -> None:
    for restitution in MATERIALS[material].restitution:
        body = replace(BALL, shape=shape, size=size, restitution=restitution)
        height = simulate_tracks(scene(body), 840, FINE)[FIRST_BODY].position[:, 2]
        speed = np.diff(height) * FINE
        lowest = int(height[:600].argmin())
        after = speed[lowest : lowest + 60].max()
        assert after / -speed[: lowest + 1].min() == pytest.approx(restitution, abs=0.06)


def test_free_fall_is_that_of_gravity() -> None:
    height = simulate_tracks(scene(BALL), 9, 24)[FIRST_BODY].position[:, 2]
    time = np.arange(9) / 24
    assert height == pytest.approx(0.8 - 9.81 * time**2 / 2, abs=2e-3)


def test_a_collision_keeps_momentum() -> None:
    first = replace(BALL, position=(-0.4, 0, 5.0), velocity=(2.0, 0, 0))
    second = replace(BALL, position=(0.1, 0, 5.0), density=1500)
    tracks = simulate_tracks(scene(first, second), 400, FINE)
    speed = np.stack([np.diff(tracks[FIRST_BODY + i].position[:, :2], axis=0) for i in (0, 1)]) * FINE
    momentum = (speed * np.array([first.mass, second.mass])[:, None, None]).sum(axis=0)
    assert np.abs(momentum - momentum[0]).max() < 1e-6 * np.abs(momentum[0]).max()
    assert np.linalg.norm(speed[1, -1]) > 0.5


@pytest.mark.parametrize("restitution", [0.4, 0.7, 0.97])
def test_a_head_on_collision_leaves_the_energy_of_its_restitution(restitution: float) -> None:
    """(1 - e^2) of the energy of the relative motion goes; nearly none of an elastic one's; e within 0.07."""
    first = replace(BALL, position=(-0.4, 0, 5.0), velocity=(2.0, 0, 0), restitution=restitution)
    second = replace(BALL, position=(0.2, 0, 5.0), velocity=(-1.0, 0, 0), density=1500, restitution=restitution)
    tracks = simulate_tracks(scene(first, second), 400, FINE)
    speed = np.stack([np.diff(tracks[FIRST_BODY + i].position[:, 0]) for i in (0, 1)]) * FINE
    mass = np.array([first.mass, second.mass])
    energy = (mass[:, None] * speed**2 / 2).sum(axis=0)
    relative = 3.0**2 * mass.prod() / mass.sum() / 2
    left = (energy[-1] - energy[0] + relative) / relative
    assert np.sqrt(left) == pytest.approx(restitution, abs=0.07)
    assert energy.max() <= energy[0] * (1 + 1e-6)


def test_what_rests_stays_and_what_rolls_rolls() -> None:
    resting = replace(BALL, shape="box", size=(0.15, 0.15, 0.15), position=(0.5, 0, 0.15))
    rolling = replace(BALL, position=(-0.5, 0, 0.2), velocity=(0.7, 0, 0), rolling=True)
    tracks = simulate_tracks(scene(resting, rolling), 9, 24)
    assert np.abs(np.diff(tracks[FIRST_BODY].position, axis=0)).max() < 2e-5
    track = tracks[FIRST_BODY + 1]
    way = np.linalg.norm(track.position[-1] - track.position[0])
    turned = 2 * np.arccos(np.abs(track.quaternion[-1] @ track.quaternion[0]))
    slowed = 5 / 7 * 9.81 * BALL.rolling_friction / 0.2  # m/s^2, of a ball
    assert way == pytest.approx(0.7 * 8 / 24 - slowed * (8 / 24) ** 2 / 2, abs=1e-3)
    assert turned * 0.2 == pytest.approx(way, rel=5e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_bodies_start_with_the_velocity_of_their_scene(family: str) -> None:
    for index in range(6):
        drawn = sample_scene(SimulateConfig(families=(family,), seed=8), index).scene
        tracks = simulate_tracks(drawn, 2, FINE)
        for number, body in enumerate(drawn.bodies):
            expected, _ = drawn.world_velocity(body)
            position = tracks[FIRST_BODY + number].position
            assert (position[1] - position[0]) * FINE == pytest.approx(expected, abs=0.03)


def test_a_warning_of_mujoco_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unstable, match="BADQVEL"):
        simulate_tracks(scene(replace(BALL, velocity=(1e11, 0, 0))), 3, 24)
    assert not list(tmp_path.iterdir())  # nor does MuJoCo leave its log file


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ValueError, match="fps"):
        simulate_tracks(scene(BALL), 3, 7)
    for restitution in (0.1, 1.0):
        with pytest.raises(ValueError, match="restitution"):
            damping_ratio(restitution)
