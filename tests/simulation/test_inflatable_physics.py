"""Gas in a shell: gas law, balance of tension and load, and the events of the captions."""

import re
from dataclasses import replace
from xml.etree import ElementTree as Xml

import mujoco
import numpy as np
import pytest

from phys4d.simulation import inflatable
from phys4d.simulation.cloth.air_drag import AirDrag
from phys4d.simulation.inflatable import shell as shells
from phys4d.simulation.inflatable.gas import ATMOSPHERE, Gas, volumes
from phys4d.simulation.inflatable.shell import InitialInflation, Shell
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.flex import areas, lump_to_vertices
from phys4d.simulation.mujoco_scenes.flex_points import FlexPoints
from phys4d.simulation.mujoco_scenes.mjcf import FIRM, add_body, text
from phys4d.simulation.mujoco_scenes.rollout import Rollout, run_model
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.scene import GRAVITY, Room, Unstable
from phys4d.simulation.scenery import sampling

ROOM = Room((0.6, 0.6, 0.6), (0.6, 0.6, 0.6), 1.3, 0.0)
BALL = Shell("ball", "red", (0.8, 0.2, 0.2), (0.2, 0.2, 0.2), 900.0, 0.2, 0.7, 600.0, 4)
STEPS = shells.STEPS_PER_SECOND


def rollout(height: float, gas: Gas, frames: int, *, weightless: bool = False, plate: float = 0.0) -> Rollout:
    """A ball in the air or on the floor, under a plate of that many kg."""
    mjcf = shells.model(ROOM)
    if weightless:
        option = mjcf.root.find("option")
        assert option is not None
        option.set("gravity", "0 0 0")
    shells.add_shell(mjcf, BALL, "ball", np.array([0, 0, height]))
    if plate:
        # On a vertical slide joint, so that it stays level.
        body = Xml.SubElement(mjcf.world, "body", name="plate", pos=text(0, 0, height + 0.25))
        Xml.SubElement(body, "joint", type="slide", axis="0 0 1", damping="20")
        Xml.SubElement(body, "geom", name="plate", type="box", size="0.4 0.4 0.02", mass=text(plate))
    start = InitialInflation({"ball": BALL}, {"ball": gas})
    return run_model(mjcf.text(), frames, 24, steps_per_second=STEPS, start=start, before_step=gas)


def gauge(place: np.ndarray, amount: float) -> np.ndarray:
    """Pressure above the atmosphere's [T], from the law."""
    return ATMOSPHERE * (amount / volumes(place, BALL.triangles) - 1)


def drawn(family: str, seed: int) -> MujocoScene:
    scene = inflatable.FAMILIES[family](keyed_rng("inflatable physics", seed))
    assert isinstance(scene, MujocoScene)
    return scene


def test_pressure_balances_the_tension_of_the_skin() -> None:
    """p = 2 T / R with T = K / (1 - nu) times the strain (Laplace), within 6 %, while the air doubles the pressure."""
    more = BALL.amount + 0.06 * BALL.volume
    for gas in (Gas("ball", BALL.amount), Gas("ball", BALL.amount, (more - BALL.amount) / 0.5, until=0.5)):
        place = rollout(1.0, gas, 37, weightless=True).flexes["ball"]
        distance = np.linalg.norm(place - place.mean(axis=1, keepdims=True), axis=2)
        strain = distance[-1].mean() / 0.2 - 1
        tension = BALL.stretching / (1 - shells.POISSON) * strain * (1 + strain / 2)
        pressure = gauge(place, gas.amount_at(36 / 24))[-1]
        assert pressure == pytest.approx(2 * tension / distance[-1].mean(), rel=0.06)


def test_volume_follows_the_inflow() -> None:
    """p V = p_atm A: with less than 3 kPa of gauge pressure the volume is the air's, less at most 3 %."""
    gas = Gas("ball", BALL.amount, 0.02)
    volume = volumes(rollout(1.0, gas, 13, weightless=True).flexes["ball"], BALL.triangles)
    air = BALL.amount + 0.02 * np.arange(13) / 24
    assert (volume <= 1.001 * air).all() and (volume > 0.97 * air).all()


def test_pressure_times_contact_carries_the_load() -> None:
    """A plate of 6 kg sinks until gauge pressure times its contact is its weight, within 20 % (of a coarse patch)."""
    gas = Gas("ball", BALL.amount)
    result = rollout(0.215, gas, 73, plate=6.0)
    place, under = result.flexes["ball"][-1], result.geoms["plate"].position[-1, 2] - 0.02
    share = lump_to_vertices(areas(place, BALL.triangles), BALL.triangles, len(place))
    patch = share[under - place[:, 2] < shells.RADIUS + 1e-3].sum()
    force = gauge(place[None], gas.amount)[0] * patch
    assert force == pytest.approx(6.0 * GRAVITY, rel=0.2)


def test_a_ball_falls_freely_then_bounces_lower() -> None:
    """g t^2 / 2 within 0.5 % of the way, what the steps' length adds subtracted."""
    result = rollout(0.7, Gas("ball", BALL.amount), 25)
    height = result.flexes["ball"][:, :, 2].mean(axis=1)
    time = 5 / 24
    expected = GRAVITY * time**2 / 2 + GRAVITY * time / STEPS / 2
    assert height[0] - height[5] == pytest.approx(expected, rel=5e-3)
    lowest = int(height[:16].argmin())
    assert height[lowest] + 0.03 < height[lowest:].max() < height[0]


def test_air_drags_a_ball_as_a_sphere() -> None:
    """rho / 2 C v^2 times the cross-section with C = 0.47, within the 4 % by which an icosphere is smaller."""
    mjcf = shells.model(ROOM)
    shells.add_shell(mjcf, BALL, "ball", np.array([0, 0, 1.0]))
    model = mujoco.MjModel.from_xml_string(mjcf.text())
    data = mujoco.MjData(model)
    points, speed = FlexPoints(model, "ball"), 3.0
    data.qvel[points.dof.reshape(-1, 3)[:, 2]] = -speed
    AirDrag(flex="ball", coefficient=shells.SPHERE_DRAG * 3 / 4)(model, data)
    force = data.qfrc_applied[points.dof].reshape(-1, 3).sum(axis=0)
    assert force[2] == pytest.approx(1.2 / 2 * 0.47 * speed**2 * np.pi * 0.2**2, rel=0.04)
    assert np.abs(force[:2]).max() < 1e-3 * force[2]


def test_scenes_of_balls_of_air_have_the_drag() -> None:
    """A falling ball is slower than g t by what drag takes, and no more."""
    scene = drawn("air_ball", 1)
    result = scene._run(6, 24)
    height = next(iter(result.flexes.values()))[:, :, 2].mean(axis=1)
    time = 5 / 24
    free = GRAVITY * time**2 / 2 + GRAVITY * time / STEPS / 2
    missing = free - (height[0] - height[5])
    about = scene.scene_objects[0].about
    radius = about["size"][0] / 2 if "size" in about else 0.2
    expected = 1.2 / 2 * 0.47 * np.pi * radius**2 * GRAVITY**2 * time**4 / 12 / about["mass"]
    assert missing == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize(("family", "sign"), [("lift", 1), ("deflate", -1)])
def test_volume_changes_by_the_litres_of_the_caption(family: str, sign: int) -> None:
    scene = drawn(family, 1)
    found = re.search(r"(\d+) litres of air per second", scene.caption)
    assert found is not None
    flex = scene.scene_objects[0].flex
    result = scene._run(19, 24)
    triangles = result.model.flex_elem.reshape(-1, 3)
    volume = volumes(result.flexes[flex], triangles)
    litres = sign * float(found[1]) * 18 / 24
    assert (volume[-1] - volume[0]) * 1e3 == pytest.approx(litres, rel=0.1)


def test_a_shell_that_does_not_hold_its_gas_is_dropped() -> None:
    scene = drawn("air_ball", 1)
    result = scene._run(1, 24.0)
    torn = replace(result, flexes={name: 0.8 * place for name, place in result.flexes.items()})
    with pytest.raises(Unstable, match="gas law"):
        scene.rejection_reason(torn)


@pytest.mark.parametrize("family", ["air_ball", "cushion"])
def test_what_does_not_move_is_found_out(family: str) -> None:
    assert drawn(family, 3).rejection_reason(_static_object(drawn(family, 3))) is not None


@pytest.mark.parametrize("family", ["lift", "push_apart", "deflate"])
def test_what_does_not_fill_is_found_out(family: str) -> None:
    """Air comes in, or leaves, and the shell does not change: no gas does that."""
    scene = drawn(family, 3)
    with pytest.raises(Unstable, match="gas law"):
        scene.rejection_reason(_static_object(scene))


def _static_object(scene: MujocoScene) -> Rollout:
    first = scene._run(1, 24.0)
    return replace(
        first,
        geoms={
            name: Track(np.repeat(track.position, 25, axis=0), np.repeat(track.quaternion, 25, axis=0))
            for name, track in first.geoms.items()
        },
        flexes={name: np.repeat(place, 25, axis=0) for name, place in first.flexes.items()},
        energy=np.repeat(first.energy, 25),
        deepest=np.repeat(first.deepest, 25),
    )


def test_a_taut_ball_that_falls_off_another_bounces_ever_lower() -> None:
    """After it was blown up to 3.6 times its volume; with harder contacts it gained height at the floor."""
    rng, place = np.random.default_rng(1), np.array([0.05, 0.0, 0.9])
    ball = shells.sample_shell(rng, "red", "ball", (0.124,) * 3, gauge=0.0, stretching=(315, 316), density=(0.28, 0.28))
    below = sampling.body(rng, "ball", "blue", (0.16,), np.array([0, 0, 0.16]), materials=("wood",))
    mjcf = shells.model(ROOM)
    shells.add_shell(mjcf, ball, "ball", place)
    add_body(mjcf.world, below, "body", **FIRM)
    gas = Gas("ball", ball.amount, 26 * ball.amount, until=0.1)
    start = InitialInflation({"ball": ball}, {"ball": gas})
    seen = run_model(mjcf.text(), 56, 24, steps_per_second=STEPS, start=start, before_step=gas)
    height = seen.flexes["ball"][:, :, 2].mean(axis=1)
    inner = height[1:-1]
    peaks = inner[(inner >= height[:-2]) & (inner > height[2:]) & (inner > 0.21)]
    assert len(peaks) >= 3 and (np.diff(peaks) < 0).all()
