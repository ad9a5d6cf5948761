"""Seesaw: a ball falls onto the raised end of a plank, which throws up what lies on the other end."""

import numpy as np

from phys4d.simulation.articulated.joinery import (
    LYING,
    firm_contacts,
    hinge,
    make,
    mount,
    part,
    solid,
)
from phys4d.simulation.body import Body, Shape
from phys4d.simulation.caption import article
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf, add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import of_body

FOOT = 0.012  # half the height of what the post stands on, metres
HINGE_FRICTION = 0.02  # N m
THROWN = 0.06  # metres


def seesaw(random: np.random.Generator) -> Scene:
    """Draws a scene: a ball of steel or marble, a lighter body on the plank's lower end, all from rest."""
    view = staging.view(random, distance=(1.25, 1.45), height=(0.55, 0.9), target_height=0.33)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 3)
    plank = make(random, names[0], ("wood", "plastic"))
    size = np.array([random.uniform(0.34, 0.4), random.uniform(0.09, 0.12), random.uniform(0.01, 0.014)])
    height = random.uniform(0.12, 0.17)
    side = int(random.choice([-1, 1]))  # on which the ball falls
    axes = view.level_axes()
    direction = staging.heading(axes, random.uniform(-0.35, 0.35)) * side
    centre = axes[0] * random.uniform(-0.05, 0.05) + axes[1] * random.uniform(0.0, 0.2)
    model = Mjcf(room)
    firm_contacts(model)
    frame = part(model.world, "frame", centre, staging.pitched(direction, 0.0))
    post = (height - 2.2 * size[2]) / 2
    stands = [
        solid(frame, "foot", "box", (0.08, size[1], FOOT), (0, 0, FOOT)),
        solid(frame, "post", "box", (0.02, 0.8 * size[1], post), (0, 0, post)),
        solid(frame, "axle", "cylinder", (0.008, 1.1 * size[1]), (0, 0, height), LYING, touches=False),
    ]
    # Along x the ball's end is raised; the other one touches the floor with its lower edge.
    slope = _slope(size, height)
    board = part(frame, "board", (0, 0, height), (np.cos(slope / 2), 0, -np.sin(slope / 2), 0))
    hinge(board, "axle", (0, 1, 0), friction=HINGE_FRICTION)
    solid(board, "board", "box", tuple(size), make=plank)
    lying = _lying(random, names[1], centre, direction, height, slope, size)
    ball = _ball(random, names[2], centre, direction, height, slope, size)
    add_body(model.world, lying, "lying")
    add_body(model.world, ball, "ball")
    return WorldScene(
        family="seesaw",
        kind="articulated",
        room=room,
        view=view,
        light=light,
        things=(
            of_body(ball, "ball"),
            plank.thing("plank", ["board"]),
            of_body(lying, "lying"),
            mount("stand", stands),
        ),
        model=model.text(),
        caption=(
            f"{article(ball.name)} from rest falls onto the raised end of {article(plank.name)} seesaw, "
            f"which throws up {article(lying.name)} at rest"
        ),
        steps_per_second=1200,
        happened=_thrown,
        physics={"hinge_friction": HINGE_FRICTION},
    )


def _slope(size: np.ndarray, height: float) -> float:
    """Radians by which the plank is tilted when the lower edge of its end is on the floor."""
    return float(np.arcsin((height - 1e-4) / np.hypot(size[0], size[2])) - np.arctan2(size[2], size[0]))


def _on_plank(
    centre: np.ndarray, direction: np.ndarray, height: float, slope: float, along: float, above: float
) -> np.ndarray:
    """World position [3] at `along` the tilted plank from its middle, `above` its mid plane; metres."""
    ahead, up = np.cos(slope) * along - np.sin(slope) * above, np.sin(slope) * along + np.cos(slope) * above
    return centre + direction * ahead + np.array([0, 0, height + up])


def _lying(
    random: np.random.Generator,
    name: str,
    centre: np.ndarray,
    direction: np.ndarray,
    height: float,
    slope: float,
    size: np.ndarray,
) -> Body:
    """A light body on the lower end, which lies as steeply as the plank."""
    shapes: list[Shape] = ["box", "cylinder"]
    shape = shapes[random.integers(2)]
    body = staging.size_of(shape, random.uniform(0.07, 0.09))
    place = _on_plank(centre, direction, height, slope, -0.8 * size[0], size[2] + body[-1] + 1e-4)
    return staging.body(
        random, shape, name, body, place, quaternion=staging.pitched(direction, -slope), materials=("rubber", "wood")
    )


def _ball(
    random: np.random.Generator,
    name: str,
    centre: np.ndarray,
    direction: np.ndarray,
    height: float,
    slope: float,
    size: np.ndarray,
) -> Body:
    """A heavy ball above the raised end, which it reaches after 0.14 to 0.22 s."""
    radius = random.uniform(0.075, 0.095)
    place = _on_plank(centre, direction, height, slope, 0.85 * size[0], size[2])
    place[2] += radius / np.cos(slope) + 0.5 * 9.81 * random.uniform(0.14, 0.22) ** 2
    return staging.body(random, "ball", name, (radius,), place, materials=("steel", "marble", "clay"))


def _thrown(play: Play) -> str | None:
    """What lay on the plank flies: it rises, and loses touch with it."""
    lying, board = play.geoms["lying"].position, play.geoms["board"]
    up = np.stack([rotation(q)[:, 2] for q in board.quaternion])
    off = ((lying - board.position) * up).sum(axis=1)
    risen = lying[:, 2].max() - lying[0, 2]
    return None if risen > THROWN and off.max() - off[0] > 0.01 else "nothing is thrown up"
