"""Rolling and spinning friction follow the material: what rolls stops where the lever arm of its material says."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from phys4d.simulation.body import Shape
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, add_body
from phys4d.simulation.mujoco_scenes.rollout import run_model
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.rigid.dynamics import simulate_tracks, to_mjcf
from phys4d.simulation.rigid.fall import fall
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FIRST_BODY, GRAVITY
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import MATERIALS

RADIUS, SPEED, SECONDS, FPS = 0.2, 1.0, 4, 24
# Lever arms in metres and the way in metres of a ball of 0.2 m that starts at 1 m/s: 7/10 r v^2 / (arm g).
ARMS = {"rubber": 7e-3, "wood": 1.5e-3, "steel": 5e-4, "clay": 1.2e-2, "marble": 1e-3, "plastic": 2e-3}
WAYS = {"rubber": 2.04, "clay": 1.19}


def alone(material: str, shape: Shape = "ball", *, turning: float = 0.0) -> RigidScene:
    """One body that rolls to the right, or turns in its place, in a room without a wall ahead."""
    scene = fall(keyed_rng("rolling", 1))
    right = scene.view.level_axes()[0]
    lying = poses.heading_pitch(np.cross((0.0, 0.0, 1.0), right), np.pi / 2)
    body = sampling.body(
        keyed_rng("rolling", 2), shape, "red", (RADIUS,) if shape == "ball" else (RADIUS, RADIUS),
        np.array([0, 0, RADIUS]), velocity=None if turning else np.array([SPEED, 0, 0]), rolling=not turning,
        turning=turning, quaternion=lying if shape == "cylinder" else None, materials=(material,),
    )  # fmt: skip
    room = replace(scene.room, depth=50.0, left=50.0, right=50.0, front=50.0)
    return replace(scene, event="falls", bodies=(body,), room=room)


def speeds(scene: RigidScene, seconds: float = SECONDS) -> np.ndarray:
    """Speed of the body in each frame, m/s."""
    position = simulate_tracks(scene, int(seconds * FPS) + 1, FPS)[FIRST_BODY].position
    return np.linalg.norm(np.diff(position, axis=0), axis=1) * FPS


def test_materials_state_their_lever_arm() -> None:
    assert {name: kind.rolling_friction for name, kind in MATERIALS.items()} == ARMS


@pytest.mark.parametrize("material", WAYS)
def test_a_ball_of_a_soft_material_stops_within_its_distance(material: str) -> None:
    scene = alone(material)
    position = simulate_tracks(scene, 8 * FPS + 1, FPS)[FIRST_BODY].position
    way = np.linalg.norm(position - position[0], axis=1)
    assert way[-1] == pytest.approx(WAYS[material], rel=0.15)
    assert way[-1] - way[-FPS] < 1e-3


@pytest.mark.parametrize("material", ["steel", "marble", "wood", "plastic"])
def test_a_ball_of_a_hard_material_rolls_far_and_slows_as_its_lever_arm_says(material: str) -> None:
    """A ball decelerates at 5/7 g arm / r."""
    loss = 5 / 7 * GRAVITY * ARMS[material] / RADIUS * (SECONDS - 1)
    speed = speeds(alone(material))
    assert speed[FPS // 2] - speed[-FPS // 2] == pytest.approx(loss, rel=0.1)
    assert speed[-1] > 0.6


def test_a_lying_cylinder_stops_and_does_not_creep() -> None:
    assert speeds(alone("clay", "cylinder"), 5.0)[-FPS:].max() < 1e-3


def test_a_turning_ball_slows_by_the_friction_against_spinning() -> None:
    """The area of contact has radius a = arm 3 pi / 4, and the torque is 3 pi / 16 mu a m g."""
    scene = alone("clay", turning=1.0)
    body = scene.bodies[0]
    turns = simulate_tracks(scene, 13, FPS)[FIRST_BODY].rotation()
    angle = np.unwrap(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
    rate = np.diff(angle) * FPS
    grip = np.sqrt(body.friction * 0.6)
    slows = 3 * np.pi / 16 * grip * (ARMS["clay"] * 3 * np.pi / 4) * GRAVITY / (0.4 * RADIUS**2)
    assert (rate[0] - rate[-1]) / (11 / FPS) == pytest.approx(slows, rel=0.15)


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("shape", ["ball", "cylinder"])
def test_rolling_never_gains_energy(material: str, shape: Shape) -> None:
    scene = alone(material, shape)
    model = mujoco.MjModel.from_xml_string(to_mjcf(scene))
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    data = mujoco.MjData(model)
    linear, angular = scene.world_velocity(scene.bodies[0])
    data.qvel[:3], data.qvel[3:6] = linear, rotation(np.array(scene.bodies[0].quaternion)).T @ angular
    energies = []
    for _ in range(60):
        mujoco.mj_forward(model, data)
        energies.append(float(data.energy.sum()))
        mujoco.mj_step(model, data, 40)
    assert (np.diff(energies) <= 1e-6 * energies[0]).all() and energies[-1] < energies[0]


@pytest.mark.parametrize("material, least, most", [("clay", 0.0, 0.08), ("steel", 0.85, 0.99)])
def test_bodies_among_soft_things_roll_with_the_same_friction(material: str, least: float, most: float) -> None:
    """Speed after three seconds, over the initial one, in a model of `Mjcf`, whose friction cones are pyramids: the
    resistance is a little weaker askew to the axes."""
    scene = alone(material)
    body = scene.bodies[0]
    model = Mjcf(scene.room)
    add_body(model.world, body, "ball")
    linear, angular = scene.world_velocity(body)

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        data.qvel[:3], data.qvel[3:6] = linear, angular

    seen = run_model(model.text(), 3 * FPS + 2, FPS, steps_per_second=480, start=start)
    speed = np.linalg.norm(np.diff(seen.geoms["ball"].position, axis=0), axis=1) * FPS
    assert least <= speed[-1] / speed[0] <= most
