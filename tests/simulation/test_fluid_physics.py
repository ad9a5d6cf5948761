"""Liquids against formulas, and the events of their captions."""

from collections.abc import Iterator

import numpy as np
import pytest

from phys4d.engine.errors import UserError
from phys4d.simulation.fluid import FAMILIES, scene
from phys4d.simulation.fluid.scene import FluidScene
from phys4d.simulation.particles import mpm, newton
from phys4d.simulation.particles.beads import RADIUS, beads
from phys4d.simulation.particles.initial_particles import InitialParticles, InitialVolume, fill_volumes
from phys4d.simulation.particles.obstacles import Obstacle, Solid, obstacles_from_room
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import FIRST_BODY, GRAVITY, Room, Unusable

WIDTH, DEPTH = 0.5, 0.2  # of a tank, metres inside
ROOM = Room((0.5, 0.5, 0.5), (0.4, 0.4, 0.4), depth=2.0, texture_angle=0.0)


def filled(volume: InitialVolume, particles: int = 450) -> InitialParticles:
    return fill_volumes((volume,), particles, np.random.default_rng(5))


def tank() -> list[Obstacle]:
    """A floor and four walls around the origin."""
    x, y = WIDTH / 2 + 0.2, DEPTH / 2 + 0.2
    sides = [((x, 0.0), (0.2, 1.0)), ((-x, 0.0), (0.2, 1.0)), ((0.0, y), (1.0, 0.2)), ((0.0, -y), (1.0, 0.2))]
    walls = [Solid("box", (*half, 1.0), (*place, 0.5)) for place, half in sides]
    return [*obstacles_from_room(ROOM, 0.0)[:1], Obstacle(tuple(walls))]


def particle_motion(
    initial_particles: InitialParticles, obstacles: list[Obstacle], seconds: float, viscosity: float = 0.001
) -> np.ndarray:
    """Positions [T, N, 3], 48 a second."""
    still = np.zeros_like(initial_particles.points)
    water = mpm.Mpm(initial_particles, obstacles, density=1000.0, velocity=still, viscosity=viscosity)
    positions = [water.positions]
    for _ in range(round(48 * seconds)):
        water.advance(1 / 48)
        positions.append(water.positions)
    return np.array(positions)


@pytest.mark.slow
def test_a_lump_falls_freely() -> None:
    ball = filled(InitialVolume("ball", (0.1,), (0.0, 0.0, 1.0)))
    path = particle_motion(ball, obstacles_from_room(ROOM, 0.0), 0.25)[:, :, 2].mean(axis=1)
    assert path[0] - path[-1] == pytest.approx(GRAVITY * 0.25**2 / 2, rel=0.06)


def test_a_pool_keeps_its_volume_and_stays_in_its_tank() -> None:
    """After a second of splashing and settling, the level is within 15 % of volume over area."""
    block = InitialVolume("box", (0.09, DEPTH / 2, 0.15), (-WIDTH / 2 + 0.09, 0.0, 0.15))
    points = particle_motion(filled(block), tank(), 2.0, viscosity=5.0)
    inside = np.abs(points[..., :2]) < [WIDTH / 2 + 0.005, DEPTH / 2 + 0.005]
    assert inside.all() and points[..., 2].min() > -0.005
    level = block.cubic_metres / (WIDTH * DEPTH)
    assert 2 * points[-1, :, 2].mean() == pytest.approx(level, rel=0.15)


def test_a_dam_breaks_no_faster_than_shallow_water() -> None:
    """The front of a broken dam on a dry floor moves at up to 2 sqrt(g h); friction of the grid makes it slower."""
    height = 0.3
    block = InitialVolume("box", (0.1, DEPTH / 2, height / 2), (-WIDTH / 2 + 0.1, 0.0, height / 2))
    front = np.quantile(particle_motion(filled(block), tank(), 0.2)[..., 0], 0.99, axis=1)
    fastest = np.diff(front).max() * 48
    assert 0.4 * 2 * np.sqrt(GRAVITY * height) < fastest < 1.1 * 2 * np.sqrt(GRAVITY * height)


@pytest.mark.slow
def test_the_same_bits_again() -> None:
    block = filled(InitialVolume("box", (0.1, 0.1, 0.1), (0.0, 0.0, 0.15)), 200)
    assert np.array_equal(particle_motion(block, tank(), 0.1), particle_motion(block, tank(), 0.1))


def test_beads_move_with_their_centres() -> None:
    """Every point that is seen is a point of matter: vertices are centres plus what never changes."""
    centres = np.random.default_rng(0).uniform(-1, 1, (4, 7, 3))
    part = beads(
        centres, 0.02, np.full((7, 3), 0.5), FIRST_BODY, scene.Texture.WATER, detail=3
    )
    offsets = part.vertices.reshape(4, 7, -1, 3) - centres[:, :, None]
    assert np.allclose(offsets, offsets[0, 0], atol=1e-15, rtol=0)
    assert np.allclose(np.linalg.norm(offsets, axis=-1), RADIUS * 0.02)


SOME = [pytest.param(family, marks=[pytest.mark.slow] if number else []) for number, family in enumerate(FAMILIES)]


@pytest.mark.parametrize("family", SOME)
def test_what_is_announced_happens(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a usable draw the liquid arrives, in the record as in the picture; volumes start outside of everything."""
    monkeypatch.setattr(scene, "PARTICLES", 500)
    drawn, meshes = next(usable(family))
    mine = meshes.vertices[:, np.unique(meshes.faces[meshes.instance == FIRST_BODY])]
    assert np.linalg.norm(np.median(mine[-1], axis=0) - np.median(mine[0], axis=0)) > 0.02
    assert drawn.liquid.name in drawn.sentence()
    points = drawn.initial_particles().points
    for prop in drawn.props:
        assert Solid(prop.shape, prop.size, prop.position, prop.quaternion).depth(points).max() < 1e-9


def usable(family: str) -> Iterator[tuple[FluidScene, scene.MeshSequence]]:
    """The samples that a dataset contains."""
    for index in range(30):
        drawn = FAMILIES[family](keyed_rng(31, family, index))
        assert isinstance(drawn, FluidScene)
        if drawn.badly_framed():
            continue
        try:
            yield drawn, drawn.simulate(13, 20, 3)
        except Unusable:
            continue


def test_without_newton_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    newton.newton.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "newton", None)
    with pytest.raises(UserError, match=r'pip install "phys4d\[newton\]"'):
        newton.newton()
    newton.newton.cache_clear()
