"""Ropes against formulas: catenary, free fall, swing, length; and the mesh of a rope."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from math import exp, pi, sqrt
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
from scipy.special import j0

from phys4d.simulation.mesh_sequence import Track, rotation
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, text
from phys4d.simulation.mujoco_scenes.rollout import Rollout, run_model
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.rope.chain import (
    SWINGING,
    SWINGING_STEPS_PER_SECOND,
    Rope,
    add_rope,
    equidistant_points,
    set_soft_contacts,
)
from phys4d.simulation.rope.coil import coil
from phys4d.simulation.rope.hoist import hoist
from phys4d.simulation.rope.overhang import overhang
from phys4d.simulation.rope.release import catenary, release
from phys4d.simulation.rope.tube import tube
from phys4d.simulation.rope.wrap import wrap
from phys4d.simulation.scene import GRAVITY, Scene
from phys4d.simulation.scenery import sampling

UP = np.array([0, 0, 1])
STRAND = Rope("hemp", "red", (1.0, 0.0, 0.0), 0.02, 1000.0, 0.5)


def scenes(family: Callable[[np.random.Generator], Scene], count: int) -> Iterator[MujocoScene]:
    for index in range(count):
        scene = family(keyed_rng(51, index))
        assert isinstance(scene, MujocoScene)
        yield scene


def rollout(scene: MujocoScene, frames: int, fps: float) -> Rollout:
    return run_model(scene.model, frames, fps, steps_per_second=scene.steps_per_second, start=scene.start)


@cache
def clip(family: Callable[[np.random.Generator], Scene]) -> tuple[MujocoScene, Rollout]:
    scene = next(scenes(family, 1))
    return scene, rollout(scene, 25, 24)


def links(seen: Rollout) -> list[Track]:
    return [track for name, track in seen.geoms.items() if name.startswith("link")]


def joints(seen: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Beginning and end [T, N, 3] of every link."""
    half = float(seen.model.geom("link0").size[1])
    position = np.stack([link.position for link in links(seen)], axis=1)
    ahead = half * np.stack([link.rotation()[:, :, 2] for link in links(seen)], axis=1)
    return position - ahead, position + ahead


def hung(points: np.ndarray, *, both: bool = False) -> Mjcf:
    """A rope that is held at its first point, or at both."""
    model = Mjcf(sampling.room(np.random.default_rng(0)), integrator=SWINGING)
    set_soft_contacts(model)
    names, _, _ = add_rope(model, STRAND, points, pinned=True)
    if both:
        length = float(np.linalg.norm(points[1] - points[0]))
        hold = {"body1": names[-1], "anchor": text(0, 0, length), "solref": text(0.004, 1)}
        Xml.SubElement(model.section("equality"), "connect", hold)
    return model


@pytest.mark.parametrize("family", [overhang, release, wrap, coil, hoist])
def test_a_rope_is_as_long_as_ever(family: Callable[[np.random.Generator], Scene]) -> None:
    scene, seen = clip(family)
    begin, end = joints(seen)
    assert np.abs(begin[:, 1:] - end[:, :-1]).max() < 1e-6
    length = 2 * float(seen.model.geom("link0").size[1]) * len(links(seen))
    assert length == pytest.approx(scene.physics["rope_length"], rel=0.01)


def test_a_rope_falls_as_its_mass_centre_does() -> None:
    for scene in scenes(overhang, 3):
        fps = 200
        seen = rollout(scene, 14, fps)
        assert seen.deepest.max() == 0
        centre = np.mean([link.position for link in links(seen)], axis=0)
        time = np.arange(14) / fps
        fallen = GRAVITY * time * (time + 1 / 1200) / 2
        expected = centre[0] + time[:, None] * np.array(scene.physics["linear_velocity"]) - fallen[:, None] * UP
        assert centre == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("slack", [1.05, 1.4])
def test_a_rope_between_two_pins_hangs_in_its_catenary(slack: float) -> None:
    shape = catenary(0.8, 0.8 * slack)
    points = equidistant_points(lambda u: UP + shape(u)[:, :1] * np.array([1, 0, 0]) + shape(u)[:, 1:] * UP)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).sum() == pytest.approx(0.8 * slack, rel=2e-3)
    seen = run_model(hung(points, both=True).text(), 15, 24, steps_per_second=SWINGING_STEPS_PER_SECOND)
    _, end = joints(seen)
    assert np.abs(end - points[None, 1:]).max() < 4e-3


def test_a_rope_that_hangs_straight_stays_straight() -> None:
    points = 1.2 * UP - np.linspace(0, 0.8, 21)[:, None] * UP
    seen = run_model(hung(points).text(), 10, 24, steps_per_second=SWINGING_STEPS_PER_SECOND)
    _, end = joints(seen)
    assert np.abs(end - points[None, 1:]).max() < 1e-6


def test_a_hanging_rope_swings_with_its_first_mode() -> None:
    """A hanging chain's first mode is J0 of 2.405 times the root of the share from its free end; its rate is 1.2024
    times the root of g / L (Bernoulli 1733)."""
    length, fps = 0.9, 240
    down = np.linspace(0, length, 25)
    sideways = 0.02 * j0(2.404826 * np.sqrt(1 - down / length))
    points = np.stack([sideways, 0 * down, 1.2 - down], axis=1)
    straight = np.linalg.norm(np.diff(points, axis=0), axis=1)
    points = points[0] + np.concatenate([[np.zeros(3)], np.diff(points, axis=0) / straight[:, None] * 0.0375]).cumsum(0)
    seen = run_model(hung(points).text(), int(1.6 * fps), fps, steps_per_second=SWINGING_STEPS_PER_SECOND)
    _, end = joints(seen)
    tip = end[:, -1, 0]
    crossing = np.flatnonzero(np.diff(np.sign(tip)))
    period = 2 * np.diff(crossing).mean() / fps
    assert period == pytest.approx(2 * pi / (1.2024 * sqrt(GRAVITY / length)), rel=0.03)


def test_the_heavier_ball_of_a_hoist_goes_down_no_faster_than_without_friction_and_no_slower_than_it_allows() -> None:
    for scene in scenes(hoist, 3):
        fps = 100
        seen = rollout(scene, 13, fps)
        heavy, small = (float(seen.model.body(name).mass[0]) for name in ("heavy", "small"))
        ball = [scene_object for scene_object in scene.scene_objects if scene_object.name in scene.sentence()]
        assert ball[0].about["mass"] == pytest.approx(heavy) and ball[1].about["mass"] == pytest.approx(small)
        weight = float(seen.model.body_mass.sum()) - heavy - small
        grip = float(seen.model.geom("link0").friction[0])
        time = np.arange(13) / fps
        fallen = seen.geoms["heavy"].position[0, 2] - seen.geoms["heavy"].position[:, 2]
        found = 2 * (fallen @ time**2) / (time**4).sum()
        # Without friction the longer side of the rope helps the lighter ball; with it the rope pulls exp(pi friction)
        # times as hard on the heavier side (Euler, Eytelwein).
        assert found < GRAVITY * (heavy - small) / (heavy + small + weight)
        held = exp(pi * grip) * (small + weight / 2)
        assert found > 0.9 * GRAVITY * (heavy - held) / (heavy + exp(pi * grip) * (small + weight))


@pytest.mark.parametrize("family", [overhang, release, wrap, coil, hoist])
def test_energy_does_not_grow(family: Callable[[np.random.Generator], Scene]) -> None:
    energy = clip(family)[1].energy
    assert energy.max() <= energy[0] + 0.01 * np.ptp(energy) + 1e-3


def bent() -> list[Track]:
    """Links of a rope in a wave and, one frame later, moved and turned as a whole."""
    points = equidistant_points(lambda u: np.stack([u, 0.1 * np.sin(7 * u), 0.05 * np.cos(5 * u)], axis=1), 20)
    middles = (points[1:] + points[:-1]) / 2
    turn = rotation(np.array([0.5, 0.5, 0.5, 0.5]))
    tracks = []
    for middle, direction in zip(middles, np.diff(points, axis=0), strict=True):
        z = direction / np.linalg.norm(direction)
        half_way = np.array([1 + z[2], *np.cross(UP, z)]) / sqrt(2 + 2 * z[2])
        turned = np.array([0.5, 0.5, 0.5, 0.5])
        w = turned[0] * half_way[0] - turned[1:] @ half_way[1:]
        v = turned[0] * half_way[1:] + half_way[0] * turned[1:] + np.cross(turned[1:], half_way[1:])
        tracks.append(Track(np.stack([middle, turn @ middle + 0.3]), np.stack([half_way, [w, *v]])))
    return tracks


def test_a_tube_moves_with_its_links_and_is_as_thick_and_long_as_the_rope() -> None:
    tracks = bent()
    half = float(np.linalg.norm(np.diff([track.position[0] for track in tracks], axis=0), axis=1).mean()) / 2
    surface = tube(tracks, 0.02, half, 3)
    turn = rotation(np.array([0.5, 0.5, 0.5, 0.5]))
    assert surface.vertices[1] == pytest.approx(surface.vertices[0] @ turn.T + 0.3, abs=1e-9)
    a, b, c = (surface.vertices[0, surface.faces[:, corner]] for corner in range(3))
    volume = (a * np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(pi * 0.02**2 * 2 * half * len(tracks), rel=0.15)
    assert surface.rest[:, 2].max() - surface.rest[:, 2].min() == pytest.approx(2 * half * 20 + 0.04, rel=1e-6)
    rings = surface.vertices[0].reshape(-1, 9, 3).mean(axis=1)
    assert max(np.linalg.norm(p - q) for p, q in pairwise(rings)) < 1.5 * 2 * half / 3
