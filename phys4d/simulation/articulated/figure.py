"""Figure: a jointed manikin collapses from a stand, or is knocked over by a rolling ball."""

from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.joinery import Make, begin, both, firm_contacts, hinge, launch, make, part, solid
from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf, add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import of_body

FALLEN = 0.6  # share of its height below which the head comes down
HELD = 0.01  # N m of dry friction in a hinge
DAMPING = 0.01  # N m s
# In the figure's own axes: x to its left, -y where it looks, z up. Lengths in shares of its height.
ACROSS = (1, 0, 0)


def figure(random: np.random.Generator) -> Scene:
    """Draws a scene: 50 % collapse from bent knees, 50 % a ball rolls into the shins."""
    view = staging.view(random, distance=(1.2, 1.35), height=(0.5, 0.8), target_height=0.34)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    kind = make(random, names[0], ("wood", "plastic"))
    height = random.uniform(0.66, 0.76)
    axes = view.level_axes()
    struck = bool(random.uniform() < 0.5)
    facing = random.uniform(-0.9, 0.9)
    turn = staging.turned(np.arctan2(axes[0, 1], axes[0, 0]) + facing)
    place = axes[0] * random.uniform(-0.08, 0.08) + axes[1] * random.uniform(0.05, 0.2)
    model = Mjcf(room)
    firm_contacts(model)
    angles = _pose(random, struck)
    geoms = _manikin(model, kind, height, place, turn, angles)
    things = [kind.thing("figure", geoms, shades=[0.8 if name == "head" else 1.0 for name in geoms], coarser=1)]
    start = begin(angles)
    sentence = f"{article(kind.name)} figure with joints, standing at rest, collapses"
    if struck:
        ball = _ball(random, names[1], place, height, axes)
        add_body(model.world, ball, "ball")
        things.append(of_body(ball, "ball"))
        start = both(start, launch(view, {"ball": ball}))
        sentence = (
            f"{article(ball.name)} {motion(ball, flying=False)} knocks over {article(kind.name)} figure with joints "
            "that stands at rest"
        )
    return WorldScene(
        family="figure",
        kind="articulated",
        room=room,
        view=view,
        light=light,
        things=tuple(things),
        model=model.text(),
        caption=sentence,
        steps_per_second=1200,
        start=start,
        happened=_down,
        physics={"height": height, "joint_friction": HELD, "joint_damping": DAMPING},
        penetration=0.015,
    )


def _pose(random: np.random.Generator, struck: bool) -> dict[str, float]:
    """Radians of the hinges at first; knees are bent to where the figure cannot stand unless a ball comes first."""
    bent = random.uniform(0.05, 0.1) if struck else random.uniform(0.25, 0.5)
    angles = {"neck": random.uniform(-0.2, 0.3), "waist": random.uniform(-0.1, 0.2)}
    for side in ("left", "right"):
        angles |= {
            f"{side} hip": bent * random.uniform(0.9, 1.1),
            f"{side} knee": -2 * bent,
            f"{side} ankle": bent,
            f"{side} shoulder": random.uniform(-0.4, 0.9),
            f"{side} arm": random.uniform(0.1, 1.1),
            f"{side} elbow": random.uniform(0.1, 0.9),
        }
    return angles


def _manikin(
    model: Mjcf, kind: Make, height: float, place: np.ndarray, turn: np.ndarray, angles: dict[str, float]
) -> list[str]:
    """A figure of fifteen parts on sixteen hinges and a free joint at its hips, its lower foot on the floor."""
    h = height
    thigh, shin, ankle = 0.23 * h, 0.22 * h, 0.045 * h
    drop = thigh * np.cos(angles["left hip"]) + shin * np.cos(angles["left hip"] + angles["left knee"]) + ankle
    hips = part(model.world, "hips", place + np.array([0, 0, drop + 0.002]), turn)
    Xml.SubElement(hips, "freejoint")
    geoms = [solid(hips, "hips", "box", (0.1 * h, 0.055 * h, 0.045 * h), (0, 0, 0.02 * h), make=kind)]
    chest = part(hips, "chest", (0, 0, 0.075 * h))
    hinge(chest, "waist", ACROSS, limits=(-0.5, 1.0), damping=DAMPING, friction=HELD)
    geoms.append(solid(chest, "chest", "box", (0.115 * h, 0.06 * h, 0.115 * h), (0, 0, 0.13 * h), make=kind))
    head = part(chest, "head", (0, 0, 0.26 * h))
    hinge(head, "neck", ACROSS, limits=(-0.5, 0.8), damping=DAMPING, friction=HELD)
    geoms.append(solid(head, "head", "ball", (0.075 * h,), (0, 0, 0.085 * h), make=kind))
    for side, sign in (("left", 1), ("right", -1)):
        geoms += _arm(chest, kind, h, side, sign) + _leg(hips, kind, h, side, sign)
    return geoms


def _arm(chest: Xml.Element, kind: Make, h: float, side: str, sign: int) -> list[str]:
    upper = part(chest, f"{side} upper arm", (sign * 0.15 * h, 0, 0.22 * h))
    hinge(upper, f"{side} shoulder", (-1, 0, 0), limits=(-0.9, 2.8), damping=DAMPING, friction=HELD)
    hinge(upper, f"{side} arm", (0, -sign, 0), limits=(-0.1, 2.2), damping=DAMPING, friction=HELD)
    lower = part(upper, f"{side} forearm", (0, 0, -0.17 * h))
    hinge(lower, f"{side} elbow", (-1, 0, 0), limits=(0.0, 2.4), damping=DAMPING, friction=HELD)
    return [
        solid(upper, f"{side} upper arm", "capsule", (0.03 * h, 0.06 * h), (0, 0, -0.085 * h), make=kind),
        solid(lower, f"{side} forearm", "capsule", (0.026 * h, 0.075 * h), (0, 0, -0.095 * h), make=kind),
    ]


def _leg(hips: Xml.Element, kind: Make, h: float, side: str, sign: int) -> list[str]:
    thigh = part(hips, f"{side} thigh", (sign * 0.06 * h, 0, 0))
    hinge(thigh, f"{side} hip", (-1, 0, 0), limits=(-0.5, 2.1), damping=DAMPING, friction=HELD)
    hinge(thigh, f"{side} straddle", (0, -sign, 0), limits=(-0.1, 0.8), damping=DAMPING, friction=HELD)
    shin = part(thigh, f"{side} shin", (0, 0, -0.23 * h))
    hinge(shin, f"{side} knee", (-1, 0, 0), limits=(-2.4, 0.0), damping=DAMPING, friction=HELD)
    foot = part(shin, f"{side} foot", (0, 0, -0.22 * h))
    hinge(foot, f"{side} ankle", (-1, 0, 0), limits=(-0.7, 0.7), damping=DAMPING, friction=HELD)
    return [
        solid(thigh, f"{side} thigh", "capsule", (0.042 * h, 0.075 * h), (0, 0, -0.12 * h), make=kind),
        solid(shin, f"{side} shin", "capsule", (0.035 * h, 0.08 * h), (0, 0, -0.105 * h), make=kind),
        solid(foot, f"{side} foot", "box", (0.036 * h, 0.075 * h, 0.018 * h), (0, -0.03 * h, -0.027 * h), make=kind),
    ]


def _ball(random: np.random.Generator, name: str, place: np.ndarray, height: float, axes: np.ndarray) -> Body:
    """A heavy ball that rolls into the legs after 0.03 to 0.08 s."""
    radius = random.uniform(0.08, 0.1)
    velocity = staging.to_tenths(random.choice([-1, 1]) * random.uniform(1.6, 2.3), random.uniform(-0.3, 0.3), 0)
    heading = velocity @ axes / np.linalg.norm(velocity)
    gap = radius + 0.11 * height + np.linalg.norm(velocity) * random.uniform(0.03, 0.08)
    position = place - heading * gap + np.array([0, 0, radius])
    materials = ("steel", "marble", "clay")
    return staging.body(random, "ball", name, (radius,), position, velocity=velocity, rolling=True, materials=materials)


def _down(play: Play) -> str | None:
    """The head comes down."""
    height = play.geoms["head"].position[:, 2]
    return None if height.min() < FALLEN * height[0] else "stays up"
