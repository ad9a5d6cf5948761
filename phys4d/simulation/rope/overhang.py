"""Overhang: a straight rope falls across a bar, hangs over it and slides off if one side is longer."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.rope.chain import LINKS, STEPS_PER_SECOND, add_rope, sample_rope, set_soft_contacts
from phys4d.simulation.rope.mounts import bar_from_wall
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

BENT = 0.12  # metres that both ends must be below the rope's highest point


def overhang(rng: np.random.Generator) -> Scene:
    """Samples a scene: a level rope 0.03 to 0.15 m above a bar, up to 18 % of its length off-centre."""
    view = sampling.view(rng, distance=(1.35, 1.55), target_height=0.42)
    room, light = sampling.room(rng), sampling.light(rng)
    strand = sample_rope(rng, sampling.colours(rng, 1)[0], (0.02, 0.026))
    axes = view.level_axes()
    direction = poses.heading(axes, rng.uniform(-0.3, 0.3))
    length = rng.uniform(0.85, 1.05)
    crossing = axes[0] * rng.uniform(-0.06, 0.06) + axes[1] * rng.uniform(-0.05, 0.15)
    crossing[2] = rng.uniform(0.5, 0.62)
    bar = bar_from_wall(rng, crossing, np.cross((0.0, 0.0, 1.0), direction), room, rng.uniform(0.04, 0.075))
    offset = rng.uniform(-0.18, 0.18) * length
    above = np.array([0, 0, bar.size[0] + strand.radius + rng.uniform(0.03, 0.15)])
    span = np.linspace(-length / 2, length / 2, LINKS + 1) + offset
    model = Mjcf(room, (bar,))
    set_soft_contacts(model)
    links, _, _ = add_rope(model, strand, crossing + above + span[:, None] * direction)
    return RopeScene(
        family="overhang",
        category_name="rope",
        room=room,
        view=view,
        light=light,
        props=(bar,),
        scene_objects=(strand.scene_object(links),),
        ropes=(strand.name,),
        model=model.text(),
        caption=f"{article(strand.name)}, straight, level and at rest, falls across a bar",
        steps_per_second=STEPS_PER_SECOND,
        rejection_reason=_bent,
        physics={"rope_length": length},
    )


def _bent(rollout: Rollout) -> str | None:
    """Checks that the rope hangs down on both sides of the bar at some time."""
    height = np.stack([rollout.geoms[f"link{number}"].position[:, 2] for number in range(LINKS)], axis=1)
    sag = height.max(axis=1) - np.maximum(height[:, 0], height[:, -1])
    return None if sag.max() > BENT else "does not hang over the bar"
