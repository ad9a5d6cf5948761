"""Overhang: a straight rope falls or is thrown across one bar or two, and slides off if one side is longer."""

import numpy as np

from phys4d.simulation.caption import article, flight
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.thrown import thrown_chain
from phys4d.simulation.rope.chain import LINKS, STEPS_PER_SECOND, add_rope, sample_rope, set_soft_contacts
from phys4d.simulation.rope.mounts import bar_from_wall
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

BENT = 0.12  # metres that both ends must be below the rope's highest point


def overhang(rng: np.random.Generator) -> Scene:
    """Samples a scene: a level rope 0.03 to 0.15 m above a bar, up to 18 % of its length off-centre; 35 % have two
    bars, 55 % are thrown.
    """
    view = sampling.view(rng, distance=(1.35, 1.55), target_height=0.42)
    room, light = sampling.room(rng), sampling.light(rng)
    strand = sample_rope(rng, sampling.colours(rng, 1)[0], (0.02, 0.026))
    axes = view.level_axes()
    direction = poses.heading(axes, rng.uniform(-0.3, 0.3))
    length = round(rng.uniform(0.85, 1.05), 2)
    velocity = poses.throw(rng, share=0.55, level=(0.2, 0.7), up=(-0.6, 0.3))
    crossing = axes[0] * rng.uniform(-0.06, 0.06) + axes[1] * rng.uniform(-0.05, 0.15)
    crossing[2] = rng.uniform(0.5, 0.62)
    thick = rng.uniform(0.04, 0.075)
    apart = direction * (rng.uniform(0.11, 0.17) if rng.uniform() < 0.35 else 0.0)
    bars = tuple(
        bar_from_wall(rng, crossing + side * apart, np.cross((0.0, 0.0, 1.0), direction), room, thick)
        for side in ((-1, 1) if apart.any() else (0,))
    )
    offset = rng.uniform(-0.18, 0.18) * length
    # A rope that is thrown down starts higher, against its way during the fall.
    above = np.array([0, 0, thick + strand.radius + rng.uniform(0.03, 0.15) + max(-0.12 * velocity[2], 0.0)])
    above = above - 0.15 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    span = np.linspace(-length / 2, length / 2, LINKS + 1) + offset
    model = Mjcf(room, bars)
    set_soft_contacts(model)
    links, _, _ = add_rope(model, strand, crossing + above + span[:, None] * direction)
    return RopeScene(
        family="overhang",
        category_name="rope",
        room=room,
        view=view,
        light=light,
        props=bars,
        scene_objects=(strand.scene_object(links),),
        ropes=(strand.name,),
        model=model.text(),
        caption=(
            f"{article(strand.name)} {length:.2f} m long, straight and level, {flight(velocity)} falls across "
            f"{'two bars' if len(bars) > 1 else 'a bar'}"
        ),
        steps_per_second=STEPS_PER_SECOND,
        start=thrown_chain(links[0], velocity @ axes),
        rejection_reason=_bent,
        physics={"rope_length": length, "linear_velocity": (velocity @ axes).tolist()},
    )


def _bent(rollout: Rollout) -> str | None:
    """Checks that the rope hangs down on both sides of the bar at some time."""
    height = np.stack([rollout.geoms[f"link{number}"].position[:, 2] for number in range(LINKS)], axis=1)
    sag = height.max(axis=1) - np.maximum(height[:, 0], height[:, -1])
    return None if sag.max() > BENT else "does not hang over the bar"
