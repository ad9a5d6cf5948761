"""Cabinet: its open door slams shut, already turning or hit by a rolling ball."""

from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.events import angle
from phys4d.simulation.articulated.joinery import Make, begin, both, firm_contacts, hinge, launch, make, part, solid
from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf, add_body
from phys4d.simulation.world.play import Drive, Play
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import of_body

BOARD = 0.014  # half the thickness of a board, metres
GAP = 0.004
HINGE_FRICTION = 0.03  # N m
SHUT = 0.1  # radians
TURNED = 0.35  # radians


def cabinet(random: np.random.Generator) -> Scene:
    """Draws a scene: 55 % a rolling ball hits the door, 45 % the door already turns."""
    view = staging.view(random, distance=(1.3, 1.45), height=(0.6, 0.95), target_height=0.3)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 3)
    body = make(random, names[0], ("wood", "plastic", "marble"))
    leaf = make(random, names[1], ("wood", "plastic"))
    half = np.array([random.uniform(0.2, 0.24), random.uniform(0.12, 0.17), random.uniform(0.26, 0.31)])
    pushed = bool(random.uniform() < 0.55)
    side = int(random.choice([-1, 1]))  # +1: the door hangs on the left, a ball comes from there
    yaw = np.arctan2(view.level_axes()[0, 1], view.level_axes()[0, 0]) + random.uniform(-0.2, 0.2)
    turn = staging.turned(yaw)
    # In front of the middle of what the door and the ball need.
    place = np.array([side * random.uniform(0.16, 0.22) * (1.0 if pushed else 0.3), random.uniform(0.1, 0.25), 0.0])
    model = Mjcf(room)
    firm_contacts(model)
    frame = part(model.world, "cabinet", rotation(turn) @ place, turn)
    boards = _boards(frame, half, body)
    door = part(frame, "door", (-side * half[0], -half[1] - BOARD - GAP, half[2]))
    hinge(door, "hinge", (0, 0, -side), limits=(0.0, 2.1), friction=HINGE_FRICTION)
    leaf_size = (half[0] - GAP, BOARD, half[2] - 0.02)
    panels = [solid(door, "leaf", "box", leaf_size, (side * (half[0] + GAP), 0, 0), make=leaf)]
    knob = (side * (2 * half[0] - 0.05), -BOARD - 0.02, 0)
    panels.append(solid(door, "knob", "ball", (0.022,), knob, make=leaf))
    things = [leaf.thing("door", panels, shades=(1.0, 0.6)), body.thing("cabinet", boards, dynamic=False)]
    opened = random.uniform(1.0, 1.5) if pushed else random.uniform(1.3, 1.9)
    start: Drive
    if pushed:
        ball = _ball(random, names[2], turn, place, half, side, opened, view.level_axes())
        start = both(begin({"hinge": opened}), launch(view, {"ball": ball}))
        add_body(model.world, ball, "ball")
        things.append(of_body(ball, "ball"))
        sentence = (
            f"{article(ball.name)} {motion(ball, flying=False)} hits the open {leaf.name} door of "
            f"{article(body.name)} cabinet and shuts it"
        )
    else:
        rate = float(np.round(opened / (2 * np.pi * random.uniform(0.42, 0.55)), 1))
        start = begin({"hinge": opened}, {"hinge": -2 * np.pi * rate})
        sense = "counterclockwise" if side > 0 else "clockwise"
        sentence = (
            f"the open {leaf.name} door of {article(body.name)} cabinet, turning {sense} {rate} turns/s, slams shut"
        )
    return WorldScene(
        family="cabinet",
        kind="articulated",
        room=room,
        view=view,
        light=light,
        things=tuple(things),
        model=model.text(),
        caption=sentence,
        steps_per_second=1200,
        start=start,
        happened=_shut,
        physics={"hinge_friction": HINGE_FRICTION, "opened": opened},
    )


def _boards(frame: Xml.Element, half: np.ndarray, kind: Make) -> list[str]:
    """Back, two sides, bottom, top and a shelf, open towards -y; the bottom stands on the floor."""
    x, y, z = half
    places = {
        "back": ((x, BOARD, z), (0, y - BOARD, z)),
        "left": ((BOARD, y, z), (BOARD - x, 0, z)),
        "right": ((BOARD, y, z), (x - BOARD, 0, z)),
        "bottom": ((x, y, BOARD), (0, 0, BOARD)),
        "top": ((x, y, BOARD), (0, 0, 2 * z - BOARD)),
        "shelf": ((x, y - BOARD, BOARD), (0, BOARD, z)),
    }
    return [solid(frame, name, "box", size, where, make=kind) for name, (size, where) in places.items()]


def _ball(
    random: np.random.Generator,
    name: str,
    turn: np.ndarray,
    place: np.ndarray,
    half: np.ndarray,
    side: int,
    opened: float,
    axes: np.ndarray,
) -> Body:
    """A ball that rolls into the outer side of the door after 0.03 to 0.1 s."""
    radius = random.uniform(0.09, 0.12)
    velocity = staging.to_tenths(side * random.uniform(1.3, 1.9), random.uniform(0.0, 0.3), 0)
    reach = 2 * half[0] * random.uniform(0.55, 0.8)
    hinge_at = place + np.array([-side * half[0], -half[1] - BOARD - GAP, 0])
    along = np.array([side * np.cos(opened), -np.sin(opened), 0])
    outwards = np.array([-side * np.sin(opened), -np.cos(opened), 0])
    touching = hinge_at + along * reach + outwards * (radius + BOARD)
    position = rotation(turn) @ touching - velocity @ axes * random.uniform(0.03, 0.1)
    position[2] = radius
    return staging.body(
        random, "ball", name, (radius,), position, velocity=velocity, rolling=True,
        quaternion=staging.turned(random.uniform(0, np.pi), random.uniform(0, np.pi), random.uniform(0, np.pi)),
        materials=("wood", "rubber", "clay", "plastic"),
    )  # fmt: skip


def _shut(play: Play) -> str | None:
    """The door turns by a plain angle and is nearly shut at some time."""
    turned = angle(play.geoms["leaf"], (1, 0, 0))
    return None if turned.max() > TURNED and _opening(play).min() < SHUT else "the door stays open"


def _opening(play: Play) -> np.ndarray:
    """Radians [T] between the door and where it is shut."""
    leaf = np.stack([rotation(q)[:, 0] for q in play.geoms["leaf"].quaternion])
    return np.arccos(np.clip(leaf @ rotation(play.geoms["top"].quaternion[0])[:, 0], -1, 1))
