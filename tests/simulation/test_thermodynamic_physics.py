"""Heat against formulas, and the events of the captions."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.particles.initial_particles import InitialVolume, fill_volumes
from phys4d.simulation.particles.obstacles import obstacle_from_prop
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import FIRST_BODY, Scene, Unusable
from phys4d.simulation.thermodynamic import FAMILIES, melting
from phys4d.simulation.thermodynamic.glow import glowing
from phys4d.simulation.thermodynamic.glowing_pendulum import GlowingPendulumScene
from phys4d.simulation.thermodynamic.gridded_box import gridded_box
from phys4d.simulation.thermodynamic.heat_grid import HeatGrid
from phys4d.simulation.thermodynamic.hot_ball import CELLS, HotBallScene
from phys4d.simulation.thermodynamic.hot_bar import HotBarScene
from phys4d.simulation.thermodynamic.hot_body import AMBIENT, heat_capacity, radiation_rate
from phys4d.simulation.thermodynamic.melting import MeltingScene
from phys4d.simulation.thermodynamic.pace import in_words
from phys4d.simulation.thermodynamic.particle_heat import ParticleHeat
from phys4d.simulation.thermodynamic.substances import SUBSTANCES

FRAMES, FPS = 13, 20


def usable(family: str) -> Iterator[tuple[Scene, MeshSequence]]:
    """The samples that a dataset contains."""
    for index in range(60):
        drawn = FAMILIES[family](keyed_rng(41, family, index))
        if drawn.badly_framed():
            continue
        try:
            yield drawn, drawn.simulate(FRAMES, FPS, 3)
        except Unusable:
            continue


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mode_of_a_plate_decays_exponentially(axis: int) -> None:
    """cos(k x) is a mode of an insulated plate and decays as exp(-alpha k^2 t), within 1 %."""
    length, alpha, time = 0.6, 5e-3, 0.4
    k = 2 * np.pi / length
    mode = np.cos(k * (np.arange(40) + 0.5) * length / 40)
    first = np.expand_dims(mode, 1 - axis) * np.ones((40, 3) if axis == 0 else (3, 40))
    cell = (length / 40, 1.0) if axis == 0 else (1.0, length / 40)
    grid = HeatGrid(300 + 100 * first, cell, alpha)
    grid.advance(time)
    amplitude = ((grid.temperature - 300) * first).sum() / (first**2).sum()
    assert amplitude == pytest.approx(100 * np.exp(-alpha * k**2 * time), rel=0.01)


def test_a_plate_keeps_its_heat() -> None:
    first = np.random.default_rng(0).uniform(300, 1500, (20, 9))
    grid = HeatGrid(first, (0.01, 0.02), 1e-3)
    grid.advance(0.5)
    assert grid.temperature.sum() == pytest.approx(first.sum(), rel=1e-12)
    assert first.min() <= grid.temperature.min() and grid.temperature.max() <= first.max()


def test_what_the_ball_loses_the_slab_gains() -> None:
    for scene, _ in (pair for pair, _ in zip(usable("hot_ball"), range(3), strict=False)):
        assert isinstance(scene, HotBallScene)
        ball, slab = scene.heat(scene.tracks(25, 24)[FIRST_BODY], 24)
        cell = scene._capacity_of_area() * 4 * scene.props[0].size[0] * scene.props[0].size[1] / np.prod(CELLS)
        gained = cell * (slab - AMBIENT).sum(axis=(1, 2))
        lost = heat_capacity(scene.bodies[0]) * (ball[0] - ball)
        assert np.allclose(gained, lost, rtol=1e-9, atol=1e-6) and lost[-1] > 0


def test_the_bar_keeps_its_heat_and_evens_out() -> None:
    scene, meshes = next(usable("hot_bar"))
    assert isinstance(scene, HotBarScene)
    heat = scene.heat(25, 24)
    assert np.allclose(heat.mean(axis=1), heat[0].mean(), rtol=1e-12)
    assert (np.diff(np.ptp(heat, axis=1)) < 0).all()
    assert meshes.colour.ndim == 3 and not np.array_equal(meshes.colour[0], meshes.colour[-1])


def test_the_pendulum_cools_by_newtons_law() -> None:
    """Half of the excess is left after ln 2 / rate, and the slope is rate times the excess."""
    scene, meshes = next(usable("glowing_pendulum"))
    assert isinstance(scene, GlowingPendulumScene)
    half = scene.temperature_at(np.log(2) / scene.rate)
    assert half - AMBIENT == pytest.approx((scene.temperature - AMBIENT) / 2)
    slope = (scene.temperature_at(1e-6) - scene.temperature) / 1e-6
    assert slope == pytest.approx(-scene.rate * (scene.temperature - AMBIENT), rel=1e-3)
    bob = np.unique(meshes.faces[meshes.instance == FIRST_BODY])
    seen = meshes.colour[-1, bob[0]]
    assert seen == pytest.approx(glowing(np.array(scene.temperature_at((FRAMES - 1) / FPS)), scene.bodies[0].rgb))


def test_heat_between_particles_diffuses() -> None:
    """A mode decays as exp(-alpha k^2 t) within 12 % of its exponent, and no heat is lost.

    Particles at the surface have fewer neighbours than those inside, so that a block as thick as this one is slower.
    """
    block = InitialVolume("box", (0.3, 0.12, 0.12), (0.0, 0.0, 0.5))
    initial_particles = fill_volumes((block,), 3000, np.random.default_rng(1))
    alpha, time, k = 4e-3, 0.5, np.pi / 0.6
    heat = ParticleHeat(SUBSTANCES["tin"], initial_particles.points, initial_particles.spacing, alpha)
    mode = np.sin(k * initial_particles.points[:, 0])
    heat.enthalpy = 350 + 50 * mode
    total = heat.enthalpy.sum()
    import warp

    places = warp.array(initial_particles.points.astype(np.float32), dtype=warp.vec3, device="cpu")
    heat.advance(places, time, np.zeros_like, 0.0)
    amplitude = ((heat.enthalpy - 350) * mode).sum() / (mode**2).sum()
    assert -np.log(amplitude / 50) == pytest.approx(alpha * k**2 * time, rel=0.12)
    assert heat.enthalpy.sum() == pytest.approx(total, rel=1e-6)


def test_melting_takes_latent_heat_at_the_melting_point() -> None:
    ice = SUBSTANCES["ice"]
    heat = ParticleHeat(ice, np.zeros((4, 3)), 0.01, 1e-3)
    latent = ice.latent_heat / ice.heat_capacity
    heat.enthalpy = ice.melting_point + np.array([-5.0, 0.5 * latent, latent, latent + 5])
    assert heat.temperature == pytest.approx(ice.melting_point + np.array([-5.0, 0, 0, 5]))
    assert heat.molten == pytest.approx([0, 0.5, 1, 1])


@pytest.mark.parametrize("family", ["melting_on_plate", pytest.param("melting_on_ramp", marks=[pytest.mark.slow])])
def test_what_is_announced_melts_and_only_where_it_is_warm(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melting, "PARTICLES", 400)
    scene, _ = next(usable(family))
    assert isinstance(scene, MeltingScene)
    melt = scene.melt(FRAMES, FPS)
    assert not melt.molten[0].any() and np.mean(melt.molten[-1] > 0.5) > melting.MELTED
    assert (melt.temperature[melt.molten > 0] >= scene.substance.melting_point).all()
    assert (melt.molten[melt.temperature < scene.substance.melting_point] == 0).all()
    assert (
        scene.substance.initial_temperature - 1 <= melt.temperature.min()
        and melt.temperature.max() <= scene.hottest + 1
    )
    early = int(np.argmax(np.mean(melt.molten > 0.5, axis=1) > 0.05))
    depth = obstacle_from_prop(scene.props[scene.heaters[0].prop]).depth(melt.positions[early], 0.0)
    warm = melt.molten[early] > 0.5
    assert depth[warm].mean() > depth[~warm].mean()


def test_a_gridded_box_is_closed_and_faces_outwards() -> None:
    vertices, faces = gridded_box((0.5, 0.2, 0.1), (5, 3, 1))
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 == pytest.approx(8 * 0.5 * 0.2 * 0.1)


@pytest.mark.parametrize(("faster", "words"), [(25.4, "25"), (2083.3, "2,100"), (9.6, "10"), (471_999, "470,000")])
def test_a_caption_says_how_much_faster_heat_flows(faster: float, words: str) -> None:
    assert in_words(faster) == f"; for heat, time goes {words} times faster"


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "smoke"])
def test_every_scene_with_heat_faster_than_real_states_the_factor_of_its_json(family: str) -> None:
    scene = FAMILIES[family](keyed_rng(41, family, 0))
    parameters = scene.parameters()
    factor = parameters.get("conduction_faster_than_real", parameters.get("cooling_faster_than_real"))
    assert factor > 2 and scene.sentence().endswith(in_words(factor))


def test_a_steel_ball_radiates_as_stefan_and_boltzmann_say() -> None:
    """3 e sigma (T^4 - T0^4) / (r rho c) K/s, by hand for 0.1 m, 1600 K, 7800 kg/m3: 2.33 K/s."""
    scene = FAMILIES["glowing_pendulum"](keyed_rng(41, "glowing_pendulum", 0))
    assert isinstance(scene, GlowingPendulumScene)
    ball = replace(scene.bodies[0], shape="ball", size=(0.1,), density=7800.0)
    loss = radiation_rate(ball, 1600.0) * (1600.0 - AMBIENT)
    assert loss == pytest.approx(3 * 0.8 * 5.670374e-8 * (1600.0**4 - 293.0**4) / (0.1 * 7800 * 490), rel=0.01)
    assert loss == pytest.approx(2.33, abs=0.03)
