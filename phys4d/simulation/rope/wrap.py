"""Wrap: a ball on a rope swings down from the side; the rope catches on a bar below its pivot and bends around it."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.rope.mounts import axle_from_wall, bar_from_wall
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.rope.strand import STEPS_PER_SECOND, hang, lay, rope, soft_contacts
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body

WRAP_LINKS = 20
BENT = 1.0  # radians between the directions of the first and the last link


def wrap(random: np.random.Generator) -> Scene:
    """Draws a scene: a taut rope 60 to 85 degrees off the vertical, a bar 0.4 to 0.6 of its length below the pivot."""
    view = staging.view(random, distance=(1.45, 1.65), target_height=0.45)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    strand = rope(random, names[0])
    axes = view.level_axes()
    # From the pivot to where the ball is at first.
    direction = int(random.choice([-1, 1])) * staging.heading(axes, random.uniform(-0.2, 0.2))
    radius, length = random.uniform(0.065, 0.085), random.uniform(0.5, 0.6)
    pivot = axes[1] * random.uniform(0.0, 0.15) - direction * 0.1
    pivot[2] = random.uniform(0.76, 0.82)
    angle = random.uniform(1.05, 1.5)
    down = direction * np.sin(angle) - np.array([0, 0, np.cos(angle)])
    across = np.cross((0.0, 0.0, 1.0), direction)
    # Beyond the upright rope, which meets the bar on its way.
    below = pivot - np.array([0, 0, length * random.uniform(0.4, 0.6)]) - direction * random.uniform(0.06, 0.09)
    bar = bar_from_wall(random, below, across, room, random.uniform(0.03, 0.045))
    model = Mjcf(room, (bar,))
    soft_contacts(model)
    beam = axle_from_wall(model, pivot, across, room)
    links, _, last = lay(model, strand, pivot + np.linspace(0, length, WRAP_LINKS + 1)[:, None] * down, pinned=True)
    materials = ("rubber", "wood", "clay", "marble", "plastic")
    ball = staging.body(random, "ball", names[1], (radius,), pivot + down * (length + radius), materials=materials)
    hang(model, last, links[::-1], ball, "ball", length / WRAP_LINKS + radius)
    return RopeScene(
        family="wrap",
        kind="rope",
        room=room,
        view=view,
        light=light,
        props=(bar,),
        things=(of_body(ball, "ball"), strand.thing(links), beam),
        ropes=(strand.name,),
        model=model.text(),
        caption=(
            f"{article(ball.name)} from rest swings on {article(strand.name)}, "
            "which catches on a bar and bends around it"
        ),
        steps_per_second=STEPS_PER_SECOND,
        happened=_wound,
        physics={"rope_length": length},
    )


def _wound(play: Play) -> str | None:
    """The rope bends around the bar."""
    first, last = (play.geoms[f"link{number}"].rotation()[:, :, 2] for number in (1, WRAP_LINKS - 1))
    bend = np.arccos(np.clip((first * last).sum(axis=1), -1, 1))
    return None if bend.max() > BENT else "does not bend around the bar"
