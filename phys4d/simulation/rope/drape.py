"""Drape: a straight rope falls across a bar, hangs over it and slides off where one side is longer."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.rope.mounts import bar_from_wall
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.rope.strand import LINKS, STEPS_PER_SECOND, lay, rope, soft_contacts
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play

BENT = 0.12  # metres that the ends fall more than what lies on the bar


def drape(random: np.random.Generator) -> Scene:
    """Draws a scene: a level rope 0.03 to 0.15 m above a bar, up to a fifth of its length off centre."""
    view = staging.view(random, distance=(1.35, 1.55), target_height=0.42)
    room, light = staging.room(random), staging.light(random)
    strand = rope(random, staging.colours(random, 1)[0])
    axes = view.level_axes()
    direction = staging.heading(axes, random.uniform(-0.3, 0.3))
    length = random.uniform(0.85, 1.05)
    crossing = axes[0] * random.uniform(-0.06, 0.06) + axes[1] * random.uniform(-0.05, 0.15)
    crossing[2] = random.uniform(0.5, 0.62)
    bar = bar_from_wall(random, crossing, np.cross((0.0, 0.0, 1.0), direction), room, random.uniform(0.04, 0.075))
    offset = random.uniform(-0.18, 0.18) * length
    above = np.array([0, 0, bar.size[0] + strand.radius + random.uniform(0.03, 0.15)])
    span = np.linspace(-length / 2, length / 2, LINKS + 1) + offset
    model = Mjcf(room, (bar,))
    soft_contacts(model)
    links, _, _ = lay(model, strand, crossing + above + span[:, None] * direction)
    return RopeScene(
        family="drape",
        kind="rope",
        room=room,
        view=view,
        light=light,
        props=(bar,),
        things=(strand.thing(links),),
        ropes=(strand.name,),
        model=model.text(),
        caption=f"{article(strand.name)}, straight, level and at rest, falls across a bar",
        steps_per_second=STEPS_PER_SECOND,
        happened=_bent,
        physics={"rope_length": length},
    )


def _bent(play: Play) -> str | None:
    """At some time the rope hangs down on both sides of the bar."""
    height = np.stack([play.geoms[f"link{number}"].position[:, 2] for number in range(LINKS)], axis=1)
    sag = height.max(axis=1) - np.maximum(height[:, 0], height[:, -1])
    return None if sag.max() > BENT else "does not hang over the bar"
