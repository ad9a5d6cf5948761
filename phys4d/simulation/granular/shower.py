"""Shower: a clump of grains falls onto a body at rest on the floor."""

import numpy as np

from phys4d.simulation.body import Shape
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
from phys4d.simulation.mujoco_scenes.mjcf import add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.shapes import half_height

BELOW = 0.5  # share of the grains that must end below the body's top


def shower(rng: np.random.Generator) -> Scene:
    """Samples a scene: 300 to 400 grains in a round clump, 0.05 to 0.15 m above a ball, a box or a cylinder."""
    view = sampling.view(rng, distance=(1.2, 1.35), height=(0.65, 0.95), target_height=0.33)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    grains = sample_grains(rng, names[0], rng.uniform(0.022, 0.026), ("pebbles", "beans"))
    axes = view.level_axes()
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    shape = shapes[rng.choice(3, p=[0.3, 0.4, 0.3])]
    size = sampling.size_for_radius(shape, rng.uniform(0.16, 0.2))
    stand = axes[0] * rng.uniform(-0.08, 0.08) + axes[1] * rng.uniform(0.25, 0.42)
    below = sampling.body(
        rng, shape, names[1], size, stand + np.array([0, 0, half_height(shape, size)]),
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi)), materials=("wood", "marble", "steel", "clay"),
    )  # fmt: skip
    radius = 0.187 * grains.radius / 0.024 * rng.uniform(0.95, 1.03)
    places = closest_packing(grains.radius, np.full(3, -radius), np.full(3, radius))
    places = places[np.linalg.norm(places, axis=1) < radius]
    off = axes[0] * rng.uniform(-0.05, 0.05)
    places = places + stand + off + np.array([0, 0, 2 * below.position[2] + radius + rng.uniform(0.03, 0.07)])
    model = granular_model(room)
    grains_object = add_grains(model, rng, grains, places)
    add_body(model.world, below, "below")
    return GrainScene(
        family="shower",
        category_name="granular",
        room=room,
        view=view,
        light=light,
        scene_objects=(grains_object, object_from_body(below, "below")),
        grains=grains_object.name,
        model=model.text(),
        caption=f"a clump of {grains.name} from rest falls onto {article(below.name)} at rest",
        steps_per_second=STEPS_PER_SECOND,
        rejection_reason=lambda rollout: _showered(rollout, 2 * below.position[2]),
    )


def _showered(rollout: Rollout, top: float) -> str | None:
    """Checks that half of the grains end below the body's top."""
    return None if (grain_heights(rollout)[-1] < top).mean() > BELOW else "stays above"
