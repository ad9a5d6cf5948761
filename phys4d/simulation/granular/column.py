"""Column: a column or a wall of grains collapses."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.granular.grains import STEPS_PER_SECOND, fill, grains, granular_model, heights, packed
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.play import Play

SUNK = 0.2  # share of their mean height that the grains lose
GRAINS = 420  # at most


def column(random: np.random.Generator) -> Scene:
    """Draws a scene: 320 to 420 grains in closest packing, a round column or a wall, with gaps."""
    view = staging.view(random, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.22)
    room, light = staging.room(random), staging.light(random)
    kind = grains(random, staging.colours(random, 1)[0], random.uniform(0.024, 0.027))
    axes = view.level_axes()
    wall = bool(random.uniform() < 0.4)
    if wall:
        half = np.array([random.uniform(0.22, 0.26), random.uniform(0.11, 0.13), 0.0])
        places = packed(kind.radius, -half, half + np.array([0, 0, 0.5]))
    else:
        radius = random.uniform(0.17, 0.21)
        places = packed(kind.radius, np.array([-radius, -radius, 0]), np.array([radius, radius, 0.7]))
        places = places[np.hypot(places[:, 0], places[:, 1]) < radius - kind.radius]
    # Some are missing, so that nothing stands like a crystal.
    places = places[random.uniform(size=len(places)) < 0.93][: int(random.uniform(0.78, 1.0) * GRAINS)]
    turn = staging.heading(axes, random.uniform(-0.5, 0.5))
    places = places @ np.array([turn, np.cross((0, 0, 1), turn), (0, 0, 1)])
    places += axes[0] * random.uniform(-0.08, 0.08) + axes[1] * random.uniform(0.1, 0.3)
    model = granular_model(room)
    thing = fill(model, random, kind, places)
    return GrainScene(
        family="column",
        kind="granular",
        room=room,
        view=view,
        light=light,
        things=(thing,),
        grains=thing.name,
        model=model.text(),
        caption=f"{article('wall' if wall else 'round column')} of {kind.name} at rest collapses",
        steps_per_second=STEPS_PER_SECOND,
        happened=_collapsed,
    )


def _collapsed(play: Play) -> str | None:
    """The grains come down."""
    height = heights(play).mean(axis=1)
    return None if height.min() < (1 - SUNK) * height[0] else "does not collapse"
