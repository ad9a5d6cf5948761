"""Grains: angle of repose, packing density, conservation of grains, momentum and energy."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import mujoco
import numpy as np
import pytest

from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.granular.grains import (
    STEPS_PER_SECOND,
    Grains,
    add_grains,
    closest_packing,
    grain_heights,
    granular_model,
)
from phys4d.simulation.granular.plough import plough
from phys4d.simulation.granular.plunge import plunge
from phys4d.simulation.granular.scene import GrainScene, grain_mesh
from phys4d.simulation.granular.shower import shower
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.rollout import Rollout, run_model
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import GRAVITY, Scene
from phys4d.simulation.scenery import sampling

FRAMES, FPS = 13, 20
ROUGH = Grains("red", "pebbles", (1.0, 0.0, 0.0), 0.025, 2600.0, 0.7, 0.4 * 0.025)
SMOOTH = replace(ROUGH, friction=0.2, rolling=0.02 * 0.025)


def drawn(family: Callable[[np.random.Generator], Scene], index: int) -> GrainScene:
    scene = family(keyed_rng(61, index))
    assert isinstance(scene, GrainScene)
    return scene


@cache
def rollout(family: Callable[[np.random.Generator], Scene]) -> tuple[GrainScene, Rollout]:
    """A clip of the shortest allowed length."""
    scene = drawn(family, 0)
    return scene, run_model(scene.model, FRAMES, FPS, steps_per_second=STEPS_PER_SECOND, start=scene.start)


def places(seen: Rollout) -> np.ndarray:
    """Centres [T, N, 3] of the grains."""
    return np.stack([track.position for name, track in seen.geoms.items() if name.startswith("grain")], axis=1)


def radii(seen: Rollout) -> np.ndarray:
    return np.array([seen.model.geom(name).size[0] for name in seen.geoms if name.startswith("grain")])


@cache
def slumped(kind: Grains) -> np.ndarray:
    """Centres [N, 3] of grains, 1.2 s after a low round column of them was let go."""
    model = granular_model(sampling.room(np.random.default_rng(0)))
    column = closest_packing(kind.radius, np.array([-0.16, -0.16, 0]), np.array([0.16, 0.16, 0.2]))
    column = column[np.hypot(column[:, 0], column[:, 1]) < 0.16]
    add_grains(model, np.random.default_rng(1), kind, column)
    return places(run_model(model.text(), 13, 10, steps_per_second=STEPS_PER_SECOND))[-1]


def slope(heap: np.ndarray) -> float:
    """Degrees of the heap's side, from its volume and spread: a cone's centre is a quarter of its height up."""
    middle = heap[:, :2].mean(axis=0)
    height = 4 * (heap[:, 2].mean() - heap[:, 2].min())
    # Of a cone's volume, half is within 0.614 of its radius.
    radius = np.median(np.linalg.norm(heap[:, :2] - middle, axis=1)) / 0.614
    return float(np.rad2deg(np.arctan(height / radius)))


def test_rough_grains_heap_steeper_than_smooth_ones() -> None:
    """Piles of rough round grains lean by 20 to 40 degrees; those of smooth ones run out flat."""
    rough, smooth = slope(slumped(ROUGH)), slope(slumped(SMOOTH))
    assert 18 < rough < 42
    assert smooth < 0.6 * rough


@pytest.mark.parametrize("family", CATEGORIES["granular"].values())
def test_no_grain_is_lost_and_none_goes_through_the_floor(family: Callable[[np.random.Generator], Scene]) -> None:
    scene, seen = rollout(family)
    where, size = places(seen), radii(seen)
    assert (
        where.shape[1]
        == len(size)
        == scene.scene_objects[[t.name for t in scene.scene_objects].index(scene.grains)].about["grains"]
    )
    assert (where[:, :, 2] > 0.7 * size).all()
    assert (where[:, :, 1] < scene.room.depth - 0.7 * size).all()
    assert np.abs(where).max() < 4
    assert seen.deepest.max() <= scene.penetration
    assert np.median(np.linalg.norm(where[-1] - where[0], axis=1)) > 0.01


@pytest.mark.parametrize("family", CATEGORIES["granular"].values())
def test_energy_does_not_grow(family: Callable[[np.random.Generator], Scene]) -> None:
    energy = rollout(family)[1].energy
    assert energy.max() <= energy[0] + 0.01 * np.ptp(energy) + 1e-3
    assert energy[-1] < energy[0]


@pytest.mark.parametrize("family", CATEGORIES["granular"].values())
def test_what_a_caption_announces_happens_and_a_still_is_found_out(
    family: Callable[[np.random.Generator], Scene],
) -> None:
    scene, seen = rollout(family)
    still = {name: Track(track.position[[0] * FRAMES], track.quaternion) for name, track in seen.geoms.items()}
    assert scene.rejection_reason(seen) is None
    assert scene.rejection_reason(replace(seen, geoms=still)) is not None
    assert all(scene_object.name in scene.sentence() for scene_object in scene.scene_objects)


def test_a_clump_falls_as_its_mass_centre_does() -> None:
    scene = drawn(shower, 1)
    fps = 240
    seen = run_model(scene.model, 20, fps, steps_per_second=STEPS_PER_SECOND)
    size = radii(seen)
    centre = np.average(places(seen), axis=1, weights=size**3)
    time = np.arange(20) / fps
    assert centre[:, 2] == pytest.approx(centre[0, 2] - GRAVITY * time * (time + 1 / STEPS_PER_SECOND) / 2, abs=1e-6)
    assert np.abs(centre[:, :2] - centre[0, :2]).max() < 1e-6


def test_grains_that_collide_keep_their_momentum_and_lose_energy() -> None:
    model = granular_model(sampling.room(np.random.default_rng(0)))
    add_grains(model, np.random.default_rng(2), ROUGH, np.array([[0, 0, 2.0], [0.06, 0.01, 2.0], [0.03, 0.05, 2.01]]))
    compiled = mujoco.MjModel.from_xml_string(model.text())
    compiled.opt.timestep, compiled.opt.gravity[:] = 1 / STEPS_PER_SECOND, 0
    data = mujoco.MjData(compiled)
    data.qvel[0], data.qvel[6], data.qvel[13] = 1.5, -1.0, -1.2
    mass = compiled.body_mass[1:, None]
    before, energy = (
        (mass * data.qvel.reshape(-1, 6)[:, :3]).sum(axis=0),
        (mass * data.qvel.reshape(-1, 6)[:, :3] ** 2).sum(),
    )
    touched = 0
    for _ in range(60):
        mujoco.mj_step(compiled, data)
        touched = max(touched, data.ncon)
    assert touched > 0
    velocity = data.qvel.reshape(-1, 6)[:, :3]
    assert (mass * velocity).sum(axis=0) == pytest.approx(before, abs=1e-9)
    assert (mass * velocity**2).sum() < 0.9 * energy


def test_a_settled_bed_is_as_dense_as_random_packings_are() -> None:
    """Random packings of round grains fill 0.55 to 0.64 of their space; a low bed with walls and a rough top less."""
    scene, seen = rollout(plunge)
    first = places(seen)[0]
    boards = list(scene.props)
    inner = min(board.size[0] for board in boards[2:]) - 0.024, boards[0].size[1]
    size = radii(seen)
    top = np.quantile(first[:, 2] + size, 0.9)
    filled = (4 / 3 * np.pi * size**3).sum() / (4 * inner[0] * inner[1] * top)
    assert 0.42 < filled < 0.66


@pytest.mark.parametrize("family", [plough, plunge])
def test_a_heap_at_rest_stays_at_rest(family: Callable[[np.random.Generator], Scene]) -> None:
    scene = drawn(family, 1)
    assert scene.start is not None
    model = mujoco.MjModel.from_xml_string(scene.model)
    model.opt.timestep = 1 / STEPS_PER_SECOND
    data = mujoco.MjData(model)
    scene.start(model, data)
    # The striking body is removed.
    first = model.joint("ball" if family is plough else "body").qposadr[0]
    data.qpos[first : first + 3] = 0, -3, 1
    data.qvel[:] = 0
    before = data.qpos.reshape(-1, 7)[:, :3].copy()
    mujoco.mj_step(model, data, STEPS_PER_SECOND // 3)
    moved = np.linalg.norm(data.qpos.reshape(-1, 7)[:, :3] - before, axis=1)
    assert np.median(moved) < 0.15 * 0.024


def test_packed_grains_touch_and_do_not_overlap() -> None:
    spheres = closest_packing(0.03, np.zeros(3), np.array([0.4, 0.3, 0.2]))
    distance = np.linalg.norm(spheres[:, None] - spheres, axis=2) + np.eye(len(spheres))
    assert distance.min() >= 0.06 and distance.min() < 0.0601
    assert (spheres >= 0.03 - 1e-12).all() and (spheres <= np.array([0.37, 0.27, 0.17]) + 1e-8).all()
    # Closest packing fills 0.74 of space, less next to walls.
    assert 0.35 < len(spheres) * 4 / 3 * np.pi * 0.03**3 / (0.4 * 0.3 * 0.2) < 0.741


def test_a_grain_is_drawn_round() -> None:
    for detail, faces in ((3, 32), (4, 80)):
        points, triangles = grain_mesh(detail)
        assert len(triangles) == faces
        assert np.linalg.norm(points, axis=1) == pytest.approx(1)
        a, b, c = (points[triangles[:, corner]] for corner in range(3))
        assert ((np.cross(b - a, c - a) * (a + b + c)).sum(axis=1) > 0).all()


def test_heights_are_of_the_grains_alone() -> None:
    scene, seen = rollout(shower)
    assert grain_heights(seen).shape == (FRAMES, len(radii(seen)))
    assert len(scene.scene_objects) == 2


def test_a_chute_stands_on_legs_that_reach_from_the_floor_to_its_board() -> None:
    for seed in range(5):
        scene = CATEGORIES["granular"]["chute"](keyed_rng("legs", seed))
        (board,) = (prop for prop in scene.props if prop.name == "chute")
        legs = [prop for prop in scene.props if prop.name == "leg"]
        solid = Solid("box", board.size, board.position, board.quaternion)
        assert len(legs) == 4
        for leg in legs:
            assert leg.position[2] == pytest.approx(leg.size[1])  # on the floor
            top = np.array([[*leg.position[:2], 2 * leg.size[1]]])
            assert solid.depth(top)[0] == pytest.approx(0, abs=1e-9)
