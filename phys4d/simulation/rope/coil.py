"""Coil: an upright rope falls in a heap on the floor."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.rope.strand import LINKS, STEPS_PER_SECOND, along, lay, rope, soft_contacts
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play

SUNK = 0.5  # share of its height that the rope's middle loses


def coil(random: np.random.Generator) -> Scene:
    """Draws a scene: a rope 0.75 to 0.95 m long in a loose wave or screw, its lower end just above the floor."""
    view = staging.view(random, distance=(1.35, 1.55), target_height=0.42)
    room, light = staging.room(random), staging.light(random)
    strand = rope(random, staging.colours(random, 1)[0])
    axes = view.level_axes()
    height = random.uniform(0.72, 0.82)
    foot = axes[0] * random.uniform(-0.2, 0.2) + axes[1] * random.uniform(-0.1, 0.2)
    foot[2] = strand.radius + random.uniform(0.01, 0.08)
    wide, deep = random.uniform(0.03, 0.1), random.uniform(0.0, 0.08)
    turns, phase, lean = random.uniform(0.7, 1.7), random.uniform(0, 2 * np.pi), random.uniform(-0.15, 0.15)

    def curve(parameter: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * turns * parameter[:, None] + phase
        sideways = wide * np.sin(angle) * axes[0] + deep * np.cos(angle) * axes[1]
        up = np.array([0, 0, height]) + lean * axes[0]
        return foot + sideways + parameter[:, None] * up

    points = along(curve)
    model = Mjcf(room)
    soft_contacts(model)
    links, _, _ = lay(model, strand, points)
    return RopeScene(
        family="coil",
        kind="rope",
        room=room,
        view=view,
        light=light,
        things=(strand.thing(links),),
        ropes=(strand.name,),
        model=model.text(),
        caption=f"{article(strand.name)}, upright and at rest, falls in a heap on the floor",
        steps_per_second=STEPS_PER_SECOND,
        happened=_sunk,
        physics={"rope_length": float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())},
    )


def _sunk(play: Play) -> str | None:
    """The rope's middle comes down."""
    height = np.mean([play.geoms[f"link{number}"].position[:, 2] for number in range(LINKS)], axis=0)
    return None if height[-1] < (1 - SUNK) * height[0] else "does not come down"
