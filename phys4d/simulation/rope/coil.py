"""Coil: an upright rope falls, or is thrown, into a heap on the floor."""

import numpy as np

from phys4d.simulation.caption import article, flight
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.thrown import thrown_chain
from phys4d.simulation.rope.chain import (
    LINKS,
    STEPS_PER_SECOND,
    add_rope,
    equidistant_points,
    sample_rope,
    set_soft_contacts,
)
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

SUNK = 0.5  # share of its height that the rope's centre must lose


def coil(rng: np.random.Generator) -> Scene:
    """Samples a scene: a rope 0.6 to 1 m long in a loose wave or helix, its lower end just above the floor; 60 % are
    thrown.
    """
    view = sampling.view(rng, distance=(1.15, 1.3), height=(0.6, 0.95), target_height=0.36)
    room, light = sampling.room(rng), sampling.light(rng)
    strand = sample_rope(rng, sampling.colours(rng, 1)[0], (0.025, 0.031))
    axes = view.level_axes()
    height = rng.uniform(0.6, 0.76)
    velocity = poses.throw(rng, share=0.6, level=(0.2, 0.8), up=(-0.5, 0.5))
    foot = axes[0] * rng.uniform(-0.15, 0.15) + axes[1] * rng.uniform(-0.1, 0.2)
    foot = foot - 0.2 * (velocity[0] * axes[0] + velocity[1] * axes[1])
    foot[2] = strand.radius + rng.uniform(0.01, 0.08)
    wide, deep = rng.uniform(0.03, 0.1), rng.uniform(0.0, 0.08)
    turns, phase, lean = rng.uniform(0.7, 1.7), rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.15)

    def curve(parameter: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * turns * parameter[:, None] + phase
        sideways = wide * np.sin(angle) * axes[0] + deep * np.cos(angle) * axes[1]
        up = np.array([0, 0, height]) + lean * axes[0]
        return foot + sideways + parameter[:, None] * up

    points = equidistant_points(curve)
    length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    model = Mjcf(room)
    set_soft_contacts(model)
    links, _, _ = add_rope(model, strand, points)
    return RopeScene(
        family="coil",
        category_name="rope",
        room=room,
        view=view,
        light=light,
        scene_objects=(strand.scene_object(links),),
        ropes=(strand.name,),
        model=model.text(),
        caption=(
            f"{article(strand.name)} {length:.2f} m long, upright in a wave, {flight(velocity)} falls in a heap on the "
            "floor"
        ),
        steps_per_second=STEPS_PER_SECOND,
        start=thrown_chain(links[0], velocity @ axes),
        rejection_reason=_sunk,
        physics={"rope_length": length, "linear_velocity": (velocity @ axes).tolist()},
    )


def _sunk(rollout: Rollout) -> str | None:
    """Checks that the rope's centre falls."""
    height = np.mean([rollout.geoms[f"link{number}"].position[:, 2] for number in range(LINKS)], axis=0)
    return None if height[-1] < (1 - SUNK) * height[0] else "does not come down"
