"""Cabinet: an open door closes, already turning or hit by a rolling ball."""

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
from phys4d.simulation.articulated.rotation_angles import angle_from_start
from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout, StepCallback, in_sequence
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

BOARD = 0.014  # half the thickness of a board, metres
GAP = 0.004
HINGE_FRICTION = 0.03  # N m
SHUT = 0.1  # radians
TURNED = 0.35  # radians


def cabinet(rng: np.random.Generator) -> Scene:
    """Samples a scene: 55 % a rolling ball hits the door, 45 % the door already turns."""
    view = sampling.view(rng, distance=(1.3, 1.45), height=(0.6, 0.95), target_height=0.3)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 3)
    body = sample_material(rng, names[0], ("wood", "plastic", "marble"))
    leaf = sample_material(rng, names[1], ("wood", "plastic"))
    half = np.array([rng.uniform(0.2, 0.24), rng.uniform(0.12, 0.17), rng.uniform(0.26, 0.31)])
    pushed = bool(rng.uniform() < 0.55)
    side = int(rng.choice([-1, 1]))  # +1: the door's hinge is on the left, a ball comes from the left
    yaw = np.arctan2(view.level_axes()[0, 1], view.level_axes()[0, 0]) + rng.uniform(-0.2, 0.2)
    turn = poses.yaw_tilt(yaw)
    # Off-centre, so that door and ball are in the middle of the image.
    place = np.array([side * rng.uniform(0.16, 0.22) * (1.0 if pushed else 0.3), rng.uniform(0.1, 0.25), 0.0])
    model = Mjcf(room)
    set_firm_contacts(model)
    frame = add_link(model.world, "cabinet", rotation(turn) @ place, turn)
    boards = _boards(frame, half, body)
    door = add_link(frame, "door", (-side * half[0], -half[1] - BOARD - GAP, half[2]))
    add_hinge(door, "hinge", (0, 0, -side), limits=(0.0, 2.1), friction=HINGE_FRICTION)
    leaf_size = (half[0] - GAP, BOARD, half[2] - 0.02)
    panels = [add_geom(door, "leaf", "box", leaf_size, (side * (half[0] + GAP), 0, 0), material=leaf)]
    knob = (side * (2 * half[0] - 0.05), -BOARD - 0.02, 0)
    panels.append(add_geom(door, "knob", "ball", (0.022,), knob, material=leaf))
    scene_objects = [
        leaf.scene_object("door", panels, shades=(1.0, 0.6)),
        body.scene_object("cabinet", boards, dynamic=False),
    ]
    opened = rng.uniform(1.0, 1.5) if pushed else rng.uniform(1.3, 1.9)
    start: StepCallback
    if pushed:
        ball = _ball(rng, names[2], turn, place, half, side, opened, view.level_axes())
        start = in_sequence(set_joint_state({"hinge": opened}), set_free_velocities(view, {"ball": ball}))
        add_body(model.world, ball, "ball")
        scene_objects.append(object_from_body(ball, "ball"))
        sentence = (
            f"{article(ball.name)} {motion(ball, flying=False)} hits the open {leaf.name} door of "
            f"{article(body.name)} cabinet and shuts it"
        )
    else:
        rate = float(np.round(opened / (2 * np.pi * rng.uniform(0.42, 0.55)), 1))
        start = set_joint_state({"hinge": opened}, {"hinge": -2 * np.pi * rate})
        sense = "counterclockwise" if side > 0 else "clockwise"
        sentence = (
            f"the open {leaf.name} door of {article(body.name)} cabinet, turning {sense} {rate} turns/s, slams shut"
        )
    return MujocoScene(
        family="cabinet",
        category_name="articulated",
        room=room,
        view=view,
        light=light,
        scene_objects=tuple(scene_objects),
        model=model.text(),
        caption=sentence,
        steps_per_second=1200,
        start=start,
        rejection_reason=_shut,
        physics={"hinge_friction": HINGE_FRICTION, "opened": opened},
    )


def _boards(frame: Xml.Element, half: np.ndarray, kind: PartMaterial) -> list[str]:
    """Back, sides, bottom, top and shelf, open towards -y; the bottom is on the floor."""
    x, y, z = half
    places = {
        "back": ((x, BOARD, z), (0, y - BOARD, z)),
        "left": ((BOARD, y, z), (BOARD - x, 0, z)),
        "right": ((BOARD, y, z), (x - BOARD, 0, z)),
        "bottom": ((x, y, BOARD), (0, 0, BOARD)),
        "top": ((x, y, BOARD), (0, 0, 2 * z - BOARD)),
        "shelf": ((x, y - BOARD, BOARD), (0, BOARD, z)),
    }
    return [add_geom(frame, name, "box", size, where, material=kind) for name, (size, where) in places.items()]


def _ball(
    rng: np.random.Generator,
    name: str,
    turn: np.ndarray,
    place: np.ndarray,
    half: np.ndarray,
    side: int,
    opened: float,
    axes: np.ndarray,
) -> Body:
    """A ball that rolls into the outer side of the door after 0.03 to 0.1 s."""
    radius = rng.uniform(0.09, 0.12)
    velocity = poses.to_tenths(side * rng.uniform(1.0, 1.5), rng.uniform(0.0, 0.3), 0)
    reach = 2 * half[0] * rng.uniform(0.55, 0.8)
    hinge_at = place + np.array([-side * half[0], -half[1] - BOARD - GAP, 0])
    along = np.array([side * np.cos(opened), -np.sin(opened), 0])
    outwards = np.array([-side * np.sin(opened), -np.cos(opened), 0])
    touching = hinge_at + along * reach + outwards * (radius + BOARD)
    position = rotation(turn) @ touching - velocity @ axes * rng.uniform(0.03, 0.1)
    position[2] = radius
    return sampling.body(
        rng, "ball", name, (radius,), position, velocity=velocity, rolling=True,
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi), rng.uniform(0, np.pi), rng.uniform(0, np.pi)),
        materials=("wood", "rubber", "clay", "plastic"),
    )  # fmt: skip


def _shut(rollout: Rollout) -> str | None:
    """Checks that the door turns visibly and is nearly closed at some time."""
    turned = angle_from_start(rollout.geoms["leaf"], (1, 0, 0))
    return None if turned.max() > TURNED and _opening(rollout).min() < SHUT else "the door stays open"


def _opening(rollout: Rollout) -> np.ndarray:
    """Radians [T] between the door and its closed position."""
    leaf = np.stack([rotation(q)[:, 0] for q in rollout.geoms["leaf"].quaternion])
    return np.arccos(np.clip(leaf @ rotation(rollout.geoms["top"].quaternion[0])[:, 0], -1, 1))
