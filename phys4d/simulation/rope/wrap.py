"""Wrap: a ball on a rope swings down; the rope catches on a bar below the pivot and bends around it."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.rope.chain import (
    SWINGING,
    SWINGING_STEPS_PER_SECOND,
    add_rope,
    attach_body,
    sample_rope,
    set_soft_contacts,
)
from phys4d.simulation.rope.mounts import axle_from_wall, bar_from_wall
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

WRAP_LINKS = 20
BENT = 1.0  # radians between the directions of the first and the last link


def wrap(rng: np.random.Generator) -> Scene:
    """Samples a scene: a taut rope 60 to 85 degrees off the vertical, a bar 0.4 to 0.6 of its length below the pivot.
    """
    view = sampling.view(rng, distance=(1.45, 1.65), target_height=0.45)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    strand = sample_rope(rng, names[0])
    axes = view.level_axes()
    # From the pivot towards the ball's initial position.
    direction = int(rng.choice([-1, 1])) * poses.heading(axes, rng.uniform(-0.2, 0.2))
    radius, length = rng.uniform(0.065, 0.085), rng.uniform(0.5, 0.6)
    pivot = axes[1] * rng.uniform(0.0, 0.15) - direction * 0.1
    pivot[2] = rng.uniform(0.76, 0.82)
    angle = rng.uniform(1.05, 1.5)
    down = direction * np.sin(angle) - np.array([0, 0, np.cos(angle)])
    across = np.cross((0.0, 0.0, 1.0), direction)
    # Behind the vertical, so that the rope meets the bar after the lowest point of the swing.
    below = pivot - np.array([0, 0, length * rng.uniform(0.4, 0.6)]) - direction * rng.uniform(0.06, 0.09)
    bar = bar_from_wall(rng, below, across, room, rng.uniform(0.03, 0.045))
    model = Mjcf(room, (bar,), integrator=SWINGING)
    set_soft_contacts(model)
    beam = axle_from_wall(model, pivot, across, room)
    links, _, last = add_rope(
        model, strand, pivot + np.linspace(0, length, WRAP_LINKS + 1)[:, None] * down, pinned=True
    )
    materials = ("rubber", "wood", "clay", "marble", "plastic")
    ball = sampling.body(rng, "ball", names[1], (radius,), pivot + down * (length + radius), materials=materials)
    attach_body(model, last, links[::-1], ball, "ball", length / WRAP_LINKS + radius)
    return RopeScene(
        family="wrap",
        category_name="rope",
        room=room,
        view=view,
        light=light,
        props=(bar,),
        scene_objects=(object_from_body(ball, "ball"), strand.scene_object(links), beam),
        ropes=(strand.name,),
        model=model.text(),
        caption=(
            f"{article(ball.name)} from rest swings on {article(strand.name)}, "
            "which catches on a bar and bends around it"
        ),
        steps_per_second=SWINGING_STEPS_PER_SECOND,
        rejection_reason=_wound,
        endless=True,
        physics={"rope_length": length},
    )


def _wound(rollout: Rollout) -> str | None:
    """Checks that the rope bends around the bar."""
    first, last = (rollout.geoms[f"link{number}"].rotation()[:, :, 2] for number in (1, WRAP_LINKS - 1))
    bend = np.arccos(np.clip((first * last).sum(axis=1), -1, 1))
    return None if bend.max() > BENT else "does not bend around the bar"
