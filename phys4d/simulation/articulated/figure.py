"""Figure: a jointed manikin collapses, or is knocked over by a rolling ball."""

from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.linkage import (
    PartMaterial,
    add_geom,
    add_hinge,
    add_link,
    sample_material,
    set_firm_contacts,
    set_free_velocities,
    set_joint_state,
)
from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout, in_sequence
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

FALLEN = 0.6  # the head must fall below this share of its initial height
HELD = 0.01  # N m, dry friction of a hinge
DAMPING = 0.01  # N m s, of a hinge
# Hinge axis from right to left in the figure's own axes: x to its left, -y forward, z up.
ACROSS = (1, 0, 0)


def figure(rng: np.random.Generator) -> Scene:
    """Samples a scene: 50 % collapse from bent knees, 50 % are hit at the shins by a ball."""
    view = sampling.view(rng, distance=(1.25, 1.4), height=(0.5, 0.8), target_height=0.34)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    kind = sample_material(rng, names[0], ("wood", "plastic"))
    height = rng.uniform(0.66, 0.76)
    axes = view.level_axes()
    struck = bool(rng.uniform() < 0.5)
    facing = rng.uniform(-0.9, 0.9)
    turn = poses.yaw_tilt(np.arctan2(axes[0, 1], axes[0, 0]) + facing)
    place = axes[0] * rng.uniform(-0.08, 0.08) + axes[1] * rng.uniform(0.05, 0.2)
    model = Mjcf(room)
    set_firm_contacts(model)
    angles = _pose(rng, struck)
    geoms = _manikin(model, kind, height, place, turn, angles)
    scene_objects = [
        kind.scene_object("figure", geoms, shades=[0.8 if name == "head" else 1.0 for name in geoms], coarser=1)
    ]
    start = set_joint_state(angles)
    bent = f"its knees bent by {np.rad2deg(-angles['left knee']):.0f} degrees"
    sentence = f"{article(kind.name)} figure with joints, standing at rest with {bent}, collapses"
    if struck:
        ball = _ball(rng, names[1], place, height, axes)
        add_body(model.world, ball, "ball")
        scene_objects.append(object_from_body(ball, "ball"))
        start = in_sequence(start, set_free_velocities(view, {"ball": ball}))
        sentence = (
            f"{article(ball.name)} {motion(ball, flying=False)} knocks over {article(kind.name)} figure with joints "
            "that stands at rest"
        )
    return MujocoScene(
        family="figure",
        category_name="articulated",
        room=room,
        view=view,
        light=light,
        scene_objects=tuple(scene_objects),
        model=model.text(),
        caption=sentence,
        steps_per_second=1200,
        start=start,
        rejection_reason=_down,
        physics={"height": height, "joint_friction": HELD, "joint_damping": DAMPING},
        penetration=0.015,
    )


def _pose(rng: np.random.Generator, struck: bool) -> dict[str, float]:
    """Initial hinge angles in radians; knees are bent so far that the figure cannot stand, unless a ball hits it."""
    bent = rng.uniform(0.05, 0.1) if struck else np.deg2rad(rng.integers(28, 59)) / 2
    angles = {"neck": rng.uniform(-0.2, 0.3), "waist": rng.uniform(-0.1, 0.2)}
    for side in ("left", "right"):
        angles |= {
            f"{side} hip": bent * rng.uniform(0.9, 1.1),
            f"{side} knee": -2 * bent,
            f"{side} ankle": bent,
            f"{side} shoulder": rng.uniform(-0.4, 0.9),
            f"{side} arm": rng.uniform(0.1, 1.1),
            f"{side} elbow": rng.uniform(0.1, 0.9),
        }
    return angles


def _manikin(
    model: Mjcf, kind: PartMaterial, height: float, place: np.ndarray, turn: np.ndarray, angles: dict[str, float]
) -> list[str]:
    """A figure of fifteen parts, sixteen hinges and a free joint at its hips; returns the names of its geoms.

    height: metres; all lengths are shares of it.
    place: [3], world metres below the hips.
    turn: quaternion of the figure.
    angles: initial hinge angles, radians, which put the feet on the floor.
    """
    h = height
    thigh, shin, ankle = 0.23 * h, 0.22 * h, 0.045 * h
    drop = thigh * np.cos(angles["left hip"]) + shin * np.cos(angles["left hip"] + angles["left knee"]) + ankle
    hips = add_link(model.world, "hips", place + np.array([0, 0, drop + 0.002]), turn)
    Xml.SubElement(hips, "freejoint")
    geoms = [add_geom(hips, "hips", "box", (0.1 * h, 0.055 * h, 0.045 * h), (0, 0, 0.02 * h), material=kind)]
    chest = add_link(hips, "chest", (0, 0, 0.075 * h))
    add_hinge(chest, "waist", ACROSS, limits=(-0.5, 1.0), damping=DAMPING, friction=HELD)
    geoms.append(add_geom(chest, "chest", "box", (0.115 * h, 0.06 * h, 0.115 * h), (0, 0, 0.13 * h), material=kind))
    head = add_link(chest, "head", (0, 0, 0.26 * h))
    add_hinge(head, "neck", ACROSS, limits=(-0.5, 0.8), damping=DAMPING, friction=HELD)
    geoms.append(add_geom(head, "head", "ball", (0.075 * h,), (0, 0, 0.085 * h), material=kind))
    for side, sign in (("left", 1), ("right", -1)):
        geoms += _arm(chest, kind, h, side, sign) + _leg(hips, kind, h, side, sign)
    return geoms


def _arm(chest: Xml.Element, kind: PartMaterial, h: float, side: str, sign: int) -> list[str]:
    upper = add_link(chest, f"{side} upper arm", (sign * 0.15 * h, 0, 0.22 * h))
    add_hinge(upper, f"{side} shoulder", (-1, 0, 0), limits=(-0.9, 2.8), damping=DAMPING, friction=HELD)
    add_hinge(upper, f"{side} arm", (0, -sign, 0), limits=(-0.1, 2.2), damping=DAMPING, friction=HELD)
    lower = add_link(upper, f"{side} forearm", (0, 0, -0.17 * h))
    add_hinge(lower, f"{side} elbow", (-1, 0, 0), limits=(0.0, 2.4), damping=DAMPING, friction=HELD)
    return [
        add_geom(upper, f"{side} upper arm", "capsule", (0.03 * h, 0.06 * h), (0, 0, -0.085 * h), material=kind),
        add_geom(lower, f"{side} forearm", "capsule", (0.026 * h, 0.075 * h), (0, 0, -0.095 * h), material=kind),
    ]


def _leg(hips: Xml.Element, kind: PartMaterial, h: float, side: str, sign: int) -> list[str]:
    thigh = add_link(hips, f"{side} thigh", (sign * 0.06 * h, 0, 0))
    add_hinge(thigh, f"{side} hip", (-1, 0, 0), limits=(-0.5, 2.1), damping=DAMPING, friction=HELD)
    add_hinge(thigh, f"{side} straddle", (0, -sign, 0), limits=(-0.1, 0.8), damping=DAMPING, friction=HELD)
    shin = add_link(thigh, f"{side} shin", (0, 0, -0.23 * h))
    add_hinge(shin, f"{side} knee", (-1, 0, 0), limits=(-2.4, 0.0), damping=DAMPING, friction=HELD)
    foot = add_link(shin, f"{side} foot", (0, 0, -0.22 * h))
    add_hinge(foot, f"{side} ankle", (-1, 0, 0), limits=(-0.7, 0.7), damping=DAMPING, friction=HELD)
    return [
        add_geom(thigh, f"{side} thigh", "capsule", (0.042 * h, 0.075 * h), (0, 0, -0.12 * h), material=kind),
        add_geom(shin, f"{side} shin", "capsule", (0.035 * h, 0.08 * h), (0, 0, -0.105 * h), material=kind),
        add_geom(
            foot, f"{side} foot", "box", (0.036 * h, 0.075 * h, 0.018 * h), (0, -0.03 * h, -0.027 * h), material=kind
        ),
    ]


def _ball(rng: np.random.Generator, name: str, place: np.ndarray, height: float, axes: np.ndarray) -> Body:
    """A heavy ball that rolls into the legs after 0.03 to 0.08 s."""
    radius = rng.uniform(0.08, 0.1)
    velocity = poses.to_tenths(rng.choice([-1, 1]) * rng.uniform(1.4, 1.9), rng.uniform(-0.3, 0.3), 0)
    heading = velocity @ axes / np.linalg.norm(velocity)
    gap = radius + 0.11 * height + np.linalg.norm(velocity) * rng.uniform(0.03, 0.08)
    position = place - heading * gap + np.array([0, 0, radius])
    materials = ("steel", "marble", "clay")
    return sampling.body(rng, "ball", name, (radius,), position, velocity=velocity, rolling=True, materials=materials)


def _down(rollout: Rollout) -> str | None:
    """Checks that the head falls."""
    height = rollout.geoms["head"].position[:, 2]
    return None if height.min() < FALLEN * height[0] else "stays up"
