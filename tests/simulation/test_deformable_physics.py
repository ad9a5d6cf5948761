"""Soft bodies against formulas: fall, bending, energy, no inverted elements; and the events of their captions."""

from dataclasses import replace

import numpy as np
import pytest

from phys4d.simulation import deformable
from phys4d.simulation.deformable import deformation, soft_body
from phys4d.simulation.deformable.soft_body import NeoHookean, SoftBody
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.flex import volumes
from phys4d.simulation.mujoco_scenes.rollout import Rollout, run_model
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import GRAVITY, Room

ROOM = Room((0.6, 0.6, 0.6), (0.6, 0.6, 0.6), 1.3, 0.0)
BALL = SoftBody("ball", "soft rubber", "red", (0.8, 0.2, 0.2), (0.18,), (5, 5, 5), 7e4, 950.0, 0.0025, 0.8)


def rollout(
    body: SoftBody,
    height: float,
    frames: int,
    pinned: np.ndarray | None = None,
    steps: int = soft_body.STEPS_PER_SECOND,
) -> Rollout:
    mjcf = soft_body.model(ROOM)
    soft_body.add_soft(mjcf, body, "soft", np.array([0, 0, height]), pinned=pinned)
    text = mjcf.text()
    return run_model(text, frames, 24, steps_per_second=steps, start=NeoHookean(text))


def drawn(family: str, seed: int) -> MujocoScene:
    scene = deformable.FAMILIES[family](keyed_rng("deformable physics", seed))
    assert isinstance(scene, MujocoScene)
    return scene


def centre(body: SoftBody, place: np.ndarray) -> np.ndarray:
    """Centre of mass [T, 3]: each tetrahedron's mass never changes."""
    share = volumes(body.rest, body.tetrahedra)
    middle = place[:, body.tetrahedra].mean(axis=2)
    return (share[:, None] * middle).sum(axis=1) / share.sum()


def test_a_soft_body_falls_freely_then_bounces_lower() -> None:
    """g t^2 / 2 within 0.1 % of the way (what the steps' length adds subtracted); then it rises, but less high."""
    result = rollout(BALL, 0.18 + 0.3, 25)
    height = centre(BALL, result.flexes["soft"])[:, 2]
    time = 5 / 24
    expected = GRAVITY * time**2 / 2 + GRAVITY * time / soft_body.STEPS_PER_SECOND / 2
    assert height[0] - height[5] == pytest.approx(expected, rel=1e-3)
    lowest = int(height[:12].argmin())
    assert height[lowest] + 0.1 < height[lowest:].max() < height[0]


def test_a_soft_body_keeps_its_volume_and_is_never_inside_out() -> None:
    """Whole volume within 20 % of jelly that falls half a metre, every tetrahedron above nothing."""
    body = replace(BALL, material="jelly", young=2e4, damping=0.005)
    now = volumes(rollout(body, 0.18 + 0.5, 16).flexes["soft"], body.tetrahedra)
    start = volumes(body.rest, body.tetrahedra)
    assert np.abs(now.sum(axis=1) / start.sum() - 1).max() < 0.2
    assert (now / start).min() > 0


def test_energy_does_not_grow() -> None:
    """Kinetic and potential energy together stay below what they were at first."""
    energy = rollout(BALL, 0.18 + 0.3, 25).energy
    assert energy.max() <= energy[0] + 1e-3


def test_a_clamped_bar_sags_as_a_beam() -> None:
    """rho g L^4 / (8 E I) of bending and rho g L^2 / (2 k G) of shear, less at most 35 %: the mesh is coarse."""
    half = (0.15, 0.05, 0.05)
    stiff = SoftBody("box", "soft rubber", "red", (0.8, 0.2, 0.2), half, (11, 5, 5), 4e5, 950.0, 0.002, 0.8)
    pinned = np.flatnonzero(stiff.rest[:, 0] < -half[0] + 0.016)
    place = rollout(stiff, 0.5, 25, pinned, 1440).flexes["soft"]
    tip = stiff.rest[:, 0] > half[0] - 0.016
    sag = place[0, tip, 2].mean() - place[12:, tip, 2].mean()
    length, height = 2 * half[0], 2 * half[2]
    bending = 950 * GRAVITY * length**4 * 12 / (8 * 4e5 * height**2)
    shear = 950 * GRAVITY * length**2 * 2 * (1 + 0.4) / (2 * 5 / 6 * 4e5)
    assert 0.65 * (bending + shear) < sag < bending + shear


def test_clay_keeps_the_dent_and_rubber_does_not() -> None:
    scene = drawn("dent", 4)
    assert scene.rejection_reason(scene._run(25, 24)) is None
    clay = replace(BALL, material="soft clay", young=1.2e5, density=1700.0)
    flattened = deformation.strain(rollout(clay, 0.18 + 0.3, 20), "soft")
    rubber = deformation.strain(rollout(BALL, 0.18 + 0.3, 20), "soft")
    assert flattened[-1] > 0.5 * flattened.max() > 0.05
    assert rubber[-1] < 0.5 * rubber.max()


@pytest.mark.parametrize("family", list(deformable.FAMILIES))
def test_what_does_not_move_is_found_out(family: str) -> None:
    scene = drawn(family, 3)
    first = scene._run(1, 24.0)
    still = replace(
        first,
        geoms={
            name: Track(np.repeat(track.position, 25, axis=0), np.repeat(track.quaternion, 25, axis=0))
            for name, track in first.geoms.items()
        },
        flexes={name: np.repeat(place, 25, axis=0) for name, place in first.flexes.items()},
        energy=np.repeat(first.energy, 25),
        deepest=np.repeat(first.deepest, 25),
    )
    assert scene.rejection_reason(still) is not None
