"""Hoist: a rope over a bar with a ball on each end; the heavier ball falls and lifts the lighter one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.rope.chain import (
    STEPS_PER_SECOND,
    add_rope,
    attach_body,
    equidistant_points,
    sample_rope,
    set_soft_contacts,
)
from phys4d.simulation.rope.mounts import bar_from_wall
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

LINKS = 30
LIFTED = 0.1  # metres
TOUCH = 0.001  # metres between rope and bar at first


def hoist(rng: np.random.Generator) -> Scene:
    """Samples a scene: both balls hang at rest; the heavier one, at least three times as heavy, starts near the bar."""
    view = sampling.view(rng, distance=(1.35, 1.5), target_height=0.46)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 3)
    # Smooth, so that the rope slips: a capstan reduces the heavier ball's pull by exp(-pi * friction).
    strand = sample_rope(rng, names[0], materials=("nylon",))
    axes = view.level_axes()
    direction = int(rng.choice([-1, 1])) * poses.heading(axes, rng.uniform(-0.25, 0.25))
    top = axes[0] * rng.uniform(-0.1, 0.1) + axes[1] * rng.uniform(-0.05, 0.15)
    top[2] = rng.uniform(0.7, 0.76)
    bar = bar_from_wall(rng, top, np.cross((0.0, 0.0, 1.0), direction), room, rng.uniform(0.1, 0.12))
    bar = replace(bar, friction=0.1)
    reach = bar.size[0] + strand.radius + TOUCH
    short, long = rng.uniform(0.06, 0.12), rng.uniform(0.34, 0.4)
    points = equidistant_points(_over(top, direction, reach, short, long), LINKS)
    model = Mjcf(room, (bar,))
    set_soft_contacts(model)
    links, first, last = add_rope(model, strand, points)
    heavy, small = (
        sampling.body(rng, "ball", name, (radius,), end - np.array([0, 0, radius]), materials=materials)
        for name, radius, end, materials in (
            (names[1], rng.uniform(0.082, 0.095), points[0], ("marble", "clay")),
            (names[2], rng.uniform(0.055, 0.063), points[-1], ("wood", "plastic")),
        )
    )
    attach_body(model, first, links, heavy, "heavy", -heavy.size[0])
    attach_body(
        model, last, links[::-1], small, "small", float(np.linalg.norm(points[-1] - points[-2])) + small.size[0]
    )
    return RopeScene(
        family="hoist",
        category_name="rope",
        room=room,
        view=view,
        light=light,
        props=(bar,),
        scene_objects=(object_from_body(heavy, "heavy"), object_from_body(small, "small"), strand.scene_object(links)),
        ropes=(strand.name,),
        model=model.text(),
        caption=(
            f"{article(heavy.name)} and {article(small.name)}, both from rest, hang on {article(strand.name)} "
            "over a bar; the first one goes down and lifts the other"
        ),
        steps_per_second=STEPS_PER_SECOND,
        rejection_reason=_lifted,
        physics={"rope_length": float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())},
    )


def _over(
    top: np.ndarray, direction: np.ndarray, reach: float, short: float, long: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The curve up from the heavy ball, around the bar and down: parameters [N] in 0..1 -> positions [N, 3], metres."""
    arc = np.pi * reach
    up = np.array([0, 0, 1])

    def curve(parameter: np.ndarray) -> np.ndarray:
        way = parameter[:, None] * (short + arc + long)
        angle = np.clip(way - short, 0, arc) / reach
        below = np.maximum(short - way, 0) + np.maximum(way - short - arc, 0)
        return top - direction * reach * np.cos(angle) + up * (reach * np.sin(angle) - below)

    return curve


def _lifted(rollout: Rollout) -> str | None:
    """Checks that one ball falls and the other rises."""
    down, up = (rollout.geoms[name].position[:, 2] for name in ("heavy", "small"))
    return None if down[0] - down.min() > LIFTED and up.max() - up[0] > LIFTED else "nothing is lifted"
