"""Hoist: a rope over a bar with a ball on each end; the heavier one goes down and lifts the other."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.rope.mounts import bar_from_wall
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.rope.strand import STEPS_PER_SECOND, along, hang, lay, rope, soft_contacts
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body

LINKS = 30
LIFTED = 0.1  # metres
TOUCH = 0.001  # metres between rope and bar at first


def hoist(random: np.random.Generator) -> Scene:
    """Draws a scene: both balls hang at rest, the one that is at least three times as heavy up at the bar."""
    view = staging.view(random, distance=(1.35, 1.5), target_height=0.46)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 3)
    # Smooth enough to slip: the bar holds back a share of exp(-pi * friction) of the heavier ball.
    strand = replace(rope(random, names[0]), friction=random.uniform(0.12, 0.2))
    axes = view.level_axes()
    direction = int(random.choice([-1, 1])) * staging.heading(axes, random.uniform(-0.25, 0.25))
    top = axes[0] * random.uniform(-0.1, 0.1) + axes[1] * random.uniform(-0.05, 0.15)
    top[2] = random.uniform(0.7, 0.76)
    bar = bar_from_wall(random, top, np.cross((0.0, 0.0, 1.0), direction), room, random.uniform(0.1, 0.12))
    bar = replace(bar, friction=0.1)
    reach = bar.size[0] + strand.radius + TOUCH
    short, long = random.uniform(0.06, 0.12), random.uniform(0.34, 0.4)
    points = along(_over(top, direction, reach, short, long), LINKS)
    model = Mjcf(room, (bar,))
    soft_contacts(model)
    links, first, last = lay(model, strand, points)
    heavy, small = (
        staging.body(random, "ball", name, (radius,), end - np.array([0, 0, radius]), materials=materials)
        for name, radius, end, materials in (
            (names[1], random.uniform(0.075, 0.09), points[0], ("marble", "clay")),
            (names[2], random.uniform(0.06, 0.07), points[-1], ("wood", "plastic")),
        )
    )
    hang(model, first, links, heavy, "heavy", -heavy.size[0])
    hang(model, last, links[::-1], small, "small", float(np.linalg.norm(points[-1] - points[-2])) + small.size[0])
    return RopeScene(
        family="hoist",
        kind="rope",
        room=room,
        view=view,
        light=light,
        props=(bar,),
        things=(of_body(heavy, "heavy"), of_body(small, "small"), strand.thing(links)),
        ropes=(strand.name,),
        model=model.text(),
        caption=(
            f"{article(heavy.name)} and {article(small.name)}, both from rest, hang on {article(strand.name)} "
            "over a bar; the first one goes down and lifts the other"
        ),
        steps_per_second=STEPS_PER_SECOND,
        happened=_lifted,
        physics={"rope_length": float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())},
    )


def _over(
    top: np.ndarray, direction: np.ndarray, reach: float, short: float, long: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The curve up from the heavy ball, around the bar and down: parameters [N] to positions [N, 3]."""
    arc = np.pi * reach
    up = np.array([0, 0, 1])

    def curve(parameter: np.ndarray) -> np.ndarray:
        way = parameter[:, None] * (short + arc + long)
        angle = np.clip(way - short, 0, arc) / reach
        below = np.maximum(short - way, 0) + np.maximum(way - short - arc, 0)
        return top - direction * reach * np.cos(angle) + up * (reach * np.sin(angle) - below)

    return curve


def _lifted(play: Play) -> str | None:
    """One ball comes down, the other goes up."""
    down, up = (play.geoms[name].position[:, 2] for name in ("heavy", "small"))
    return None if down[0] - down.min() > LIFTED and up.max() - up[0] > LIFTED else "nothing is lifted"
