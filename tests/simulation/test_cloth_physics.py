"""Cloth against formulas: free fall in air, stretching, swinging, area; and the events of its captions."""

from dataclasses import replace

import numpy as np
import pytest

from phys4d.simulation import cloth
from phys4d.simulation.caption import stated_velocities
from phys4d.simulation.cloth import air_drag, fabric, wind
from phys4d.simulation.cloth.air_drag import AirDrag
from phys4d.simulation.cloth.fabric import Cloth
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.flex import areas
from phys4d.simulation.mujoco_scenes.rollout import Rollout, run_model
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import GRAVITY, Room

ROOM = Room((0.6, 0.6, 0.6), (0.6, 0.6, 0.6), 1.3, 0.0)
SHEET = Cloth("cotton", "blue", (0.1, 0.2, 0.8), (0.3, 0.3), 13, 0.2, 220.0, 5e-5, 0.5)


def sheet(points: np.ndarray, pinned: np.ndarray | None = None) -> str:
    mjcf = fabric.model(ROOM)
    fabric.add_cloth(mjcf, SHEET, points, pinned=pinned, selfcollide=False)
    return mjcf.text()


def upright(off: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Points of the sheet, hanging from y = z = 0 at a height of one metre, and those of its upper edge."""
    down = SHEET.flat[:, 0] + SHEET.half[0]
    points = np.stack([SHEET.flat[:, 1], np.zeros(len(down)) if off is None else off, 1.0 - down], axis=1)
    return points, np.arange(SHEET.count)


def frozen(rollout: Rollout, frames: int = 25) -> Rollout:
    """The first frame repeated."""
    return replace(
        rollout,
        geoms={
            name: Track(np.repeat(track.position[:1], frames, 0), np.repeat(track.quaternion[:1], frames, 0))
            for name, track in rollout.geoms.items()
        },
        flexes={name: np.repeat(place[:1], frames, axis=0) for name, place in rollout.flexes.items()},
        energy=np.repeat(rollout.energy[:1], frames),
        deepest=np.repeat(rollout.deepest[:1], frames),
    )


def drawn(family: str, seed: int) -> MujocoScene:
    scene = cloth.FAMILIES[family](keyed_rng("cloth physics", seed))
    assert isinstance(scene, MujocoScene)
    return scene


def test_a_level_cloth_falls_as_a_plate_in_air() -> None:
    """v = u tanh(g t / u) with u^2 = 2 m g / (rho C A), within 2 %; without air g t^2 / 2, within 1 %."""
    text = sheet(SHEET.flat + np.array([0, 0, 2.0]))
    time = np.arange(10) / 24
    for before_step in (None, AirDrag()):
        rollout = run_model(text, 10, 24, steps_per_second=fabric.STEPS_PER_SECOND, before_step=before_step)
        height = rollout.flexes["cloth"][:, :, 2].mean(axis=1)
        fall = GRAVITY * time**2 / 2
        if before_step is not None:
            settled = np.sqrt(2 * SHEET.density * GRAVITY / (air_drag.DENSITY * air_drag.DRAG))
            fall = settled**2 / GRAVITY * np.log(np.cosh(GRAVITY * time / settled))
        # Semi-implicit integration updates velocity before position: half a step of the last velocity too much.
        early = GRAVITY * time[-1] / fabric.STEPS_PER_SECOND / 2
        assert height[0] - height[-1] - early == pytest.approx(fall[-1], rel=0.01 if before_step is None else 0.02)


def test_a_hanging_cloth_stretches_by_its_weight() -> None:
    """rho g L^2 / 2 over the stiffness K / (1 - nu^2) .. K, within 10 %."""
    points, upper = upright()
    rollout = run_model(sheet(points, upper), 49, 24, steps_per_second=fabric.STEPS_PER_SECOND)
    longer = -rollout.flexes["cloth"][24:, -SHEET.count :, 2].mean() + 1.0 - 2 * SHEET.half[0]
    expected = SHEET.density * GRAVITY * (2 * SHEET.half[0]) ** 2 / 2 / SHEET.stretching
    assert 0.9 * expected * (1 - fabric.POISSON**2) < longer < 1.1 * expected


def test_a_hanging_cloth_swings_as_a_hanging_chain() -> None:
    """Lowest mode J0(2.405 sqrt(s / L)) at 2.405 / 2 sqrt(g / L) rad/s, within 4 %."""
    length = 2 * SHEET.half[0]
    down = SHEET.flat[:, 0] + SHEET.half[0]
    root = 2.404826 * np.sqrt(np.clip(1 - down / length, 0, 1))
    theta = (np.arange(200) + 0.5) * np.pi / 200
    bessel = np.cos(root[:, None] * np.sin(theta)).mean(axis=1)
    points, upper = upright(0.02 * bessel)
    rollout = run_model(sheet(points, upper), 73, 48, steps_per_second=fabric.STEPS_PER_SECOND)
    lowest = rollout.flexes["cloth"][:, -SHEET.count :, 1].mean(axis=1)
    crossing = np.flatnonzero(np.diff(np.sign(lowest)))[:2]
    at = crossing + lowest[crossing] / (lowest[crossing] - lowest[crossing + 1])
    period = 2 * (at[1] - at[0]) / 48
    assert period == pytest.approx(2 * np.pi / (2.404826 / 2 * np.sqrt(GRAVITY / length)), rel=0.04)


@pytest.mark.parametrize("family", ["cover", "flag"])
def test_cloth_keeps_its_area(family: str) -> None:
    """Within 6 % in every frame, and no triangle grows by more than a third."""
    scene = drawn(family, 1)
    rollout = scene._run(20, 24)
    number = rollout.model.flex_elemnum[0]
    triangles = rollout.model.flex_elem[: 3 * number].reshape(-1, 3)
    now = np.stack([areas(place, triangles) for place in rollout.flexes["cloth"]])
    assert np.abs(now.sum(axis=1) / now[0].sum() - 1).max() < 0.06
    assert (now / now[0]).max() < 4 / 3


def test_wind_and_balls_go_where_the_caption_says() -> None:
    scene = drawn("flag", 2)
    sign = 1 if "to the right" in scene.caption else -1
    place = scene._run(13, 24).flexes["cloth"].mean(axis=1)
    assert sign * (place[-1] - place[0]) @ scene.view.level_axes()[0] > 0.05
    scene = drawn("billow", 2)
    name = scene.scene_objects[0].name
    (stated,) = stated_velocities(scene.caption, [name])
    track = scene._run(2, 240.0).geoms["body"].position
    velocity = scene.view.level_axes() @ (track[1] - track[0]) * 240
    assert np.abs(velocity - stated - [0, 0, -GRAVITY / 240]).max() < 1e-6


@pytest.mark.parametrize("family", list(cloth.FAMILIES))
def test_what_does_not_move_is_found_out(family: str) -> None:
    scene = drawn(family, 3)
    still = frozen(scene._run(1, 24.0))
    assert scene.rejection_reason(still) is not None


@pytest.mark.parametrize("pleats", wind.PLEATS)
def test_a_curtain_hangs_in_pleats_and_keeps_its_length(pleats: int) -> None:
    half = 0.3
    along, off = wind._pleats(np.linspace(-half, half, 2001), half, pleats)
    length = np.hypot(np.diff(along), np.diff(off)).sum()
    assert length == pytest.approx(2 * half, rel=5e-3)
    assert np.ptp(along) == pytest.approx(2 * half * wind.GATHERED, rel=1e-6)
    assert (np.diff(np.sign(off[np.abs(off) > 1e-6])) != 0).sum() == 2 * pleats - 1 and np.ptp(off) > 0.04
