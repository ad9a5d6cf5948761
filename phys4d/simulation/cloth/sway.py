"""Sway: a cloth hangs on a bar by its upper edge or by two corners, pulled aside, and is let go."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.cloth import fabric, rack
from phys4d.simulation.cloth.air import Air
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene

SWUNG = 0.25  # metres that the middle of the cloth moves


def sway(random: np.random.Generator) -> Scene:
    """Draws a scene: the cloth starts flat, 50 to 85 degrees off the vertical, towards the camera or away."""
    view = staging.view(random, distance=(1.5, 1.7), height=(0.65, 0.95), target_height=0.42)
    room, light = staging.room(random), staging.light(random)
    (name,) = staging.colours(random, 1)
    axes = view.level_axes()
    cloth = fabric.cloth(random, name, (random.uniform(0.24, 0.3), random.uniform(0.26, 0.34)))
    by_edge = bool(random.uniform() < 0.5)
    across = staging.heading(axes, random.uniform(-0.7, 0.7))
    aside = np.cross((0.0, 0.0, 1.0), across) * random.choice([-1, 1])
    angle = random.uniform(0.9, 1.5)
    height = 2 * cloth.half[0] + random.uniform(0.12, 0.2)
    middle = axes[0] * random.uniform(-0.05, 0.05) + axes[1] * random.uniform(0.0, 0.2) + np.array([0, 0, height])
    down = np.sin(angle) * aside - np.array([0, 0, np.cos(angle)])
    # The cloth's first side runs down from the bar, its second one along it.
    points = middle + (cloth.flat[:, :1] + cloth.half[0]) * down + cloth.flat[:, 1:2] * across
    reach = (cloth.half[1] + 0.05) * across
    props = rack.rack(middle - reach, middle + reach, muted(random, 0.3, 0.6))
    pinned = np.arange(cloth.count) if by_edge else np.array([0, cloth.count - 1])
    mjcf = fabric.model(room, props)
    rack.intangible(mjcf)
    fabric.add_cloth(mjcf, cloth, points, pinned=pinned)
    held = "along its upper edge" if by_edge else "by its two upper corners"
    return WorldScene(
        family="sway",
        kind="cloth",
        room=room,
        view=view,
        light=light,
        props=props,
        things=(fabric.thing(cloth),),
        model=mjcf.text(),
        caption=f"{article(cloth.name)} held {held} by a bar, pulled aside, swings from rest",
        steps_per_second=fabric.STEPS_PER_SECOND,
        happened=_swings,
        drive=Air(),
        physics=fabric.PHYSICS | {"start_angle": angle},
        penetration=fabric.PENETRATION,
    )


def _swings(play: Play) -> str | None:
    middle = play.flexes["cloth"].mean(axis=1)
    return None if np.linalg.norm(middle - middle[0], axis=1).max() > SWUNG else "little swing"
