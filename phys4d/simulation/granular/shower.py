"""Shower: a clump of grains falls onto a body that rests on the floor."""

import numpy as np

from phys4d.simulation.body import Shape
from phys4d.simulation.caption import article
from phys4d.simulation.granular.grains import STEPS_PER_SECOND, fill, grains, granular_model, heights, packed
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body

BELOW = 0.5  # share of the grains that end lower than the body's top


def shower(random: np.random.Generator) -> Scene:
    """Draws a scene: 300 to 400 grains in a round clump, 0.05 to 0.15 m above a ball, a box or a cylinder."""
    view = staging.view(random, distance=(1.35, 1.55), height=(0.6, 0.95), target_height=0.32)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    kind = grains(random, names[0], random.uniform(0.022, 0.026))
    axes = view.level_axes()
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[random.choice(3, p=[0.3, 0.4, 0.3])]
    size = staging.size_of(shape, random.uniform(0.16, 0.2))
    stand = axes[0] * random.uniform(-0.08, 0.08) + axes[1] * random.uniform(0.05, 0.25)
    below = staging.body(
        random, shape, names[1], size, stand + np.array([0, 0, staging.standing(shape, size)]),
        quaternion=staging.turned(random.uniform(0, np.pi)), materials=("wood", "marble", "steel", "clay"),
    )  # fmt: skip
    radius = 0.187 * kind.radius / 0.024 * random.uniform(0.95, 1.03)
    places = packed(kind.radius, np.full(3, -radius), np.full(3, radius))
    places = places[np.linalg.norm(places, axis=1) < radius]
    off = axes[0] * random.uniform(-0.05, 0.05)
    places = places + stand + off + np.array([0, 0, 2 * below.position[2] + radius + random.uniform(0.05, 0.12)])
    model = granular_model(room)
    thing = fill(model, random, kind, places)
    add_body(model.world, below, "below", condim="6")
    return GrainScene(
        family="shower",
        kind="granular",
        room=room,
        view=view,
        light=light,
        things=(thing, of_body(below, "below")),
        grains=thing.name,
        model=model.text(),
        caption=f"a clump of {kind.name} from rest falls onto {article(below.name)} at rest",
        steps_per_second=STEPS_PER_SECOND,
        happened=lambda play: _showered(play, 2 * below.position[2]),
    )


def _showered(play: Play, top: float) -> str | None:
    """Half of the grains are lower than the body's top at the end."""
    return None if (heights(play)[-1] < top).mean() > BELOW else "stays above"
