"""Column: a round or square column or a wall of grains collapses."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.granular.grains import (
    STEPS_PER_SECOND,
    add_grains,
    closest_packing,
    grain_heights,
    granular_model,
    sample_grains,
)
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

SUNK = 0.2  # share of their mean height that the grains must lose
GRAINS = 420  # at most


def column(rng: np.random.Generator) -> Scene:
    """Samples a scene: up to 420 grains in closest packing with gaps, as a round column, a square column or a wall."""
    view = sampling.view(rng, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.22)
    room, light = sampling.room(rng), sampling.light(rng)
    grains = sample_grains(rng, sampling.colours(rng, 1)[0], rng.uniform(0.024, 0.027))
    axes = view.level_axes()
    shape = str(rng.choice(["round column", "square column", "wall"], p=[0.4, 0.25, 0.35]))
    if shape == "wall":
        half = np.array([rng.uniform(0.22, 0.26), rng.uniform(0.11, 0.13), 0.0])
        places = closest_packing(grains.radius, -half, half + np.array([0, 0, 0.5]))
    elif shape == "square column":
        side = rng.uniform(0.15, 0.18)
        places = closest_packing(grains.radius, np.array([-side, -side, 0]), np.array([side, side, 0.7]))
    else:
        radius = rng.uniform(0.17, 0.21)
        places = closest_packing(grains.radius, np.array([-radius, -radius, 0]), np.array([radius, radius, 0.7]))
        places = places[np.hypot(places[:, 0], places[:, 1]) < radius - grains.radius]
    # Random gaps, since a perfect packing could stand like a crystal.
    places = places[rng.uniform(size=len(places)) < 0.93][: int(rng.uniform(0.7, 1.0) * GRAINS)]
    turn = poses.heading(axes, rng.uniform(-0.5, 0.5))
    places = places @ np.array([turn, np.cross((0, 0, 1), turn), (0, 0, 1)])
    places += axes[0] * rng.uniform(-0.08, 0.08) + axes[1] * rng.uniform(0.15, 0.35)
    model = granular_model(room)
    grains_object = add_grains(model, rng, grains, places)
    return GrainScene(
        family="column",
        category_name="granular",
        room=room,
        view=view,
        light=light,
        scene_objects=(grains_object,),
        grains=grains_object.name,
        model=model.text(),
        caption=f"{article(shape)} of {len(places)} {grains.name} at rest collapses",
        steps_per_second=STEPS_PER_SECOND,
        rejection_reason=_collapsed,
    )


def _collapsed(rollout: Rollout) -> str | None:
    """Checks that the grains fall."""
    height = grain_heights(rollout).mean(axis=1)
    return None if height.min() < (1 - SUNK) * height[0] else "does not collapse"
