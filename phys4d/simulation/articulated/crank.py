"""Crank: a turning wheel drives a slider back and forth by a rod."""

from collections.abc import Mapping
from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.linkage import (
    CONTACT_TIME,
    LYING,
    add_geom,
    add_hinge,
    add_link,
    fixed_object,
    sample_material,
    set_joint_state,
)
from phys4d.simulation.articulated.rotation_angles import accumulated_rotation
from phys4d.simulation.caption import article
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, text
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

THICK = 0.025  # half the wheel's thickness, metres
BEFORE = -2 * THICK - 0.004  # metres along y: the rod's plane, in front of the wheel
STROKE = 0.1  # metres, least range of the slider
TURNED = 1.5  # radians, least rotation of the wheel


def crank(rng: np.random.Generator) -> Scene:
    """Samples a scene: the wheel starts with 0.8 to 1.6 turns/s, the slider's stroke is 0.22 to 0.28 m."""
    view = sampling.view(rng, distance=(1.2, 1.35), height=(0.55, 0.9), target_height=0.42)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 3)
    wheel_material = sample_material(rng, names[0], ("wood", "rubber", "marble", "plastic"))
    rod_material, block_material = (sample_material(rng, name, ("wood", "steel", "plastic")) for name in names[1:])
    arm, rod = rng.uniform(0.11, 0.14), rng.uniform(0.36, 0.42)
    radius = arm + rng.uniform(0.04, 0.06)
    theta = rng.uniform(0, 2 * np.pi)
    rate = float(np.round(rng.choice([-1, 1]) * rng.uniform(0.8, 1.6), 1))
    axes = view.level_axes()
    direction = poses.heading(axes, rng.uniform(-0.25, 0.25))
    away = np.array([-direction[1], direction[0], 0.0])
    centre = axes[1] * rng.uniform(0.05, 0.2) - direction * (rod / 2 + rng.uniform(-0.02, 0.06))
    centre[2] = rng.uniform(0.36, 0.46)
    model = Mjcf(room, integrator="RK4")
    frame = add_link(model.world, "frame", centre, poses.heading_pitch(direction, 0.0))
    into = (room.depth - centre[1]) / away[1]
    carried = [add_geom(frame, "axle", "cylinder", (0.02, into / 2), (0, into / 2, 0), LYING)]
    slider_at = _slider(theta, arm, rod)
    rail = (rod - arm - 0.07, rod + arm + 0.07)
    size = (rail[1] - rail[0]) / 2
    carried.append(add_geom(frame, "rail", "box", (size, 0.03, 0.01), ((rail[0] + rail[1]) / 2, BEFORE, -0.06)))
    for number, x in enumerate((rail[0] + 0.03, rail[1] - 0.03)):
        half = (into - BEFORE) / 2
        carried.append(add_geom(frame, f"arm{number}", "box", (0.012, half, 0.01), (x, BEFORE + half, -0.08)))
    wheel = add_link(frame, "wheel")
    add_hinge(wheel, "wheel", (0, -1, 0))
    pin = np.array([arm * np.cos(theta), 0, arm * np.sin(theta)])
    before = pin + np.array([0, BEFORE, 0])
    wheels = [
        add_geom(wheel, "wheel", "cylinder", (radius, THICK), (0, 0, 0), LYING, wheel_material, touches=False),
        add_geom(wheel, "pin", "cylinder", (0.016, 1.2 * THICK), before, LYING, wheel_material, touches=False),
    ]
    phi = np.arcsin(-arm * np.sin(theta) / rod)
    bar = add_link(wheel, "rod", before, (np.cos(phi / 2), 0, -np.sin(phi / 2), 0))
    add_hinge(bar, "crank", (0, -1, 0))
    bars = [
        add_geom(
            bar, "rod", "box", (rod / 2 + 0.02, 0.01, 0.022), (rod / 2, 0, 0), material=rod_material, touches=False
        )
    ]
    block = add_link(frame, "slider", (slider_at, BEFORE, 0))
    Xml.SubElement(block, "joint", name="slider", type="slide", axis="1 0 0")
    blocks = [add_geom(block, "slider", "box", (0.055, 0.05, 0.05), material=block_material, touches=False)]
    joint = {"body1": "rod", "body2": "slider", "anchor": text(rod, 0, 0), "solref": text(CONTACT_TIME, 1)}
    Xml.SubElement(model.section("equality"), "connect", joint)
    return MujocoScene(
        family="crank",
        category_name="articulated",
        room=room,
        view=view,
        light=light,
        scene_objects=(
            wheel_material.scene_object("wheel", wheels, shades=(1.0, 0.4)),
            rod_material.scene_object("rod", bars),
            block_material.scene_object("slider", blocks),
            fixed_object("rail", carried),
        ),
        model=model.text(),
        caption=(
            f"{article(wheel_material.name)} wheel turning {'counterclockwise' if rate > 0 else 'clockwise'} "
            f"{abs(rate)} turns/s, as the camera sees it, moves {article(block_material.name)} slider by "
            f"{article(rod_material.name)} rod"
        ),
        steps_per_second=1200,
        start=set_joint_state({}, _rates(theta, 2 * np.pi * rate, arm, rod)),
        rejection_reason=_moved,
        endless=True,
        physics={"crank": arm, "rod": rod},
    )


def _slider(theta: float, arm: float, rod: float) -> float:
    """Distance in metres of the slider from the wheel's centre at the crank angle `theta` (radians)."""
    return float(arm * np.cos(theta) + np.sqrt(rod**2 - (arm * np.sin(theta)) ** 2))


def _rates(theta: float, rate: float, arm: float, rod: float) -> Mapping[str, float]:
    """Velocities of all joints, rad/s and m/s, that are consistent with the wheel's `rate`."""
    phi = np.arcsin(-arm * np.sin(theta) / rod)
    turning = -arm * np.cos(theta) * rate / (rod * np.cos(phi))
    along = -arm * rate * np.sin(theta) - rod * turning * np.sin(phi)
    return {"wheel": rate, "crank": turning - rate, "slider": along}


def _moved(rollout: Rollout) -> str | None:
    """Checks that the wheel turns and the slider moves."""
    slider = rollout.geoms["slider"].position
    if accumulated_rotation(rollout.geoms["wheel"])[-1] < TURNED or np.ptp(slider, axis=0).max() < STROKE:
        return "the wheel stops"
    return None
