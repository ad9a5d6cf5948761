"""Crank: a turning wheel drives a slider to and fro by a rod."""

from collections.abc import Mapping
from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.events import turns
from phys4d.simulation.articulated.joinery import (
    CONTACT_TIME,
    LYING,
    begin,
    hinge,
    make,
    mount,
    part,
    solid,
)
from phys4d.simulation.caption import article
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf, text
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene

THICK = 0.025  # half the wheel's thickness, metres
BEFORE = -2 * THICK - 0.004  # the rod's plane, towards the camera
STROKE = 0.1  # metres that the slider goes
TURNED = 1.5  # radians


def crank(random: np.random.Generator) -> Scene:
    """Draws a scene: the wheel turns 0.8 to 1.6 times a second at first, the slider's stroke is 0.16 to 0.24 m."""
    view = staging.view(random, distance=(1.2, 1.35), height=(0.55, 0.9), target_height=0.42)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 3)
    wheel_make = make(random, names[0], ("wood", "rubber", "marble", "plastic"))
    rod_make, block_make = (make(random, name, ("wood", "steel", "plastic")) for name in names[1:])
    arm, rod = random.uniform(0.11, 0.14), random.uniform(0.36, 0.42)
    radius = arm + random.uniform(0.04, 0.06)
    theta = random.uniform(0, 2 * np.pi)
    rate = float(np.round(random.choice([-1, 1]) * random.uniform(0.8, 1.6), 1))
    axes = view.level_axes()
    direction = staging.heading(axes, random.uniform(-0.25, 0.25))
    away = np.array([-direction[1], direction[0], 0.0])
    centre = axes[1] * random.uniform(0.05, 0.2) - direction * (rod / 2 + random.uniform(-0.02, 0.06))
    centre[2] = random.uniform(0.36, 0.46)
    model = Mjcf(room, integrator="RK4")
    frame = part(model.world, "frame", centre, staging.pitched(direction, 0.0))
    into = (room.depth - centre[1]) / away[1]
    carried = [solid(frame, "axle", "cylinder", (0.02, into / 2), (0, into / 2, 0), LYING)]
    slider_at = _slider(theta, arm, rod)
    rail = (rod - arm - 0.07, rod + arm + 0.07)
    size = (rail[1] - rail[0]) / 2
    carried.append(solid(frame, "rail", "box", (size, 0.03, 0.01), ((rail[0] + rail[1]) / 2, BEFORE, -0.06)))
    for number, x in enumerate((rail[0] + 0.03, rail[1] - 0.03)):
        half = (into - BEFORE) / 2
        carried.append(solid(frame, f"arm{number}", "box", (0.012, half, 0.01), (x, BEFORE + half, -0.08)))
    wheel = part(frame, "wheel")
    hinge(wheel, "wheel", (0, -1, 0))
    pin = np.array([arm * np.cos(theta), 0, arm * np.sin(theta)])
    before = pin + np.array([0, BEFORE, 0])
    wheels = [
        solid(wheel, "wheel", "cylinder", (radius, THICK), (0, 0, 0), LYING, wheel_make, touches=False),
        solid(wheel, "pin", "cylinder", (0.016, 1.2 * THICK), before, LYING, wheel_make, touches=False),
    ]
    phi = np.arcsin(-arm * np.sin(theta) / rod)
    bar = part(wheel, "rod", before, (np.cos(phi / 2), 0, -np.sin(phi / 2), 0))
    hinge(bar, "crank", (0, -1, 0))
    bars = [solid(bar, "rod", "box", (rod / 2 + 0.02, 0.01, 0.022), (rod / 2, 0, 0), make=rod_make, touches=False)]
    block = part(frame, "slider", (slider_at, BEFORE, 0))
    Xml.SubElement(block, "joint", name="slider", type="slide", axis="1 0 0")
    blocks = [solid(block, "slider", "box", (0.055, 0.05, 0.05), make=block_make, touches=False)]
    joint = {"body1": "rod", "body2": "slider", "anchor": text(rod, 0, 0), "solref": text(CONTACT_TIME, 1)}
    Xml.SubElement(model.section("equality"), "connect", joint)
    return WorldScene(
        family="crank",
        kind="articulated",
        room=room,
        view=view,
        light=light,
        things=(
            wheel_make.thing("wheel", wheels, shades=(1.0, 0.4)),
            rod_make.thing("rod", bars),
            block_make.thing("slider", blocks),
            mount("rail", carried),
        ),
        model=model.text(),
        caption=(
            f"{article(wheel_make.name)} wheel turning {'counterclockwise' if rate > 0 else 'clockwise'} {abs(rate)} "
            f"turns/s, as the camera sees it, moves {article(block_make.name)} slider by {article(rod_make.name)} rod"
        ),
        steps_per_second=1200,
        start=begin({}, _rates(theta, 2 * np.pi * rate, arm, rod)),
        happened=_moved,
        physics={"crank": arm, "rod": rod},
    )


def _slider(theta: float, arm: float, rod: float) -> float:
    """Metres of the slider from the wheel's centre when the crank is at `theta` radians from it."""
    return float(arm * np.cos(theta) + np.sqrt(rod**2 - (arm * np.sin(theta)) ** 2))


def _rates(theta: float, rate: float, arm: float, rod: float) -> Mapping[str, float]:
    """Velocities of all joints that go with the wheel's, rad/s and m/s."""
    phi = np.arcsin(-arm * np.sin(theta) / rod)
    turning = -arm * np.cos(theta) * rate / (rod * np.cos(phi))
    along = -arm * rate * np.sin(theta) - rod * turning * np.sin(phi)
    return {"wheel": rate, "crank": turning - rate, "slider": along}


def _moved(play: Play) -> str | None:
    """The wheel turns and the slider goes a good part of its stroke."""
    slider = play.geoms["slider"].position
    if turns(play.geoms["wheel"])[-1] < TURNED or np.ptp(slider, axis=0).max() < STROKE:
        return "the wheel stops"
    return None
