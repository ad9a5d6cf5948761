"""Plough: a ball rolls into a heap of grains at rest."""

import numpy as np

from phys4d.simulation.articulated.linkage import set_free_velocities
from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.granular.grains import (
    STEPS_PER_SECOND,
    add_grains,
    closest_packing,
    granular_model,
    sample_grains,
)
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.granular.settling import sample_inside, settle_before
from phys4d.simulation.mujoco_scenes.mjcf import add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

SETTLING = 0.2  # s
SHOVED = 0.04  # metres that a fifth of the grains must move in the ball's direction


def plough(rng: np.random.Generator) -> Scene:
    """Samples a scene: 220 to 330 grains in a heap, and a heavy ball that reaches it after about 0.05 to 0.15 s."""
    view = sampling.view(rng, distance=(1.1, 1.25), height=(0.6, 0.85), target_height=0.15)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    grains = sample_grains(rng, names[0], rng.uniform(0.022, 0.025), ("pebbles", "beans"))
    axes = view.level_axes()
    high, wide = rng.uniform(0.2, 0.24), rng.uniform(0.24, 0.27)
    cone = closest_packing(grains.radius, np.array([-wide, -wide, 0]), np.array([wide, wide, high]))
    cone = sample_inside(cone, rng, lambda p: np.hypot(p[:, 0], p[:, 1]) < wide * (1 - p[:, 2] / high) + 0.02)
    side = int(rng.choice([-1, 1]))  # +1: the ball comes from the right
    centre = axes[1] * rng.uniform(0.25, 0.42) - axes[0] * side * rng.uniform(0.05, 0.15)
    yaw = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    ball = _ball(rng, names[1], centre, wide, side, axes)
    model = granular_model(room)
    grains_object = add_grains(model, rng, grains, cone @ turn + centre)
    add_body(model.world, ball, "ball")
    return GrainScene(
        family="plough",
        category_name="granular",
        room=room,
        view=view,
        light=light,
        scene_objects=(object_from_body(ball, "ball"), grains_object),
        grains=grains_object.name,
        model=model.text(),
        caption=f"{article(ball.name)} {motion(ball, flying=False)} rolls into a heap of {grains.name} at rest",
        steps_per_second=STEPS_PER_SECOND,
        start=settle_before(SETTLING, set_free_velocities(view, {"ball": ball})),
        rejection_reason=lambda rollout: _shoved(rollout, np.array(ball.velocity) @ axes),
        penetration=0.02,
    )


def _ball(rng: np.random.Generator, name: str, centre: np.ndarray, wide: float, side: int, axes: np.ndarray) -> Body:
    radius = rng.uniform(0.1, 0.125)
    velocity = poses.to_tenths(-side * rng.uniform(2.0, 2.7), rng.uniform(-0.3, 0.3), 0)
    world = velocity @ axes
    speed = np.linalg.norm(world)
    gap = wide + 0.7 * radius + speed * rng.uniform(0.02, 0.08)
    position = centre - world / speed * gap + np.array([0, 0, radius])
    return sampling.body(
        rng,
        "ball",
        name,
        (radius,),
        position,
        velocity=velocity,
        rolling=True,
        materials=("clay", "marble", "steel"),
    )


def _shoved(rollout: Rollout, velocity: np.ndarray) -> str | None:
    """Checks that many grains move in the ball's direction."""
    along = velocity / np.linalg.norm(velocity)
    tracks = [track.position for name, track in rollout.geoms.items() if name.startswith("grain")]
    way = np.array([(track[-1] - track[0]) @ along for track in tracks])
    return None if np.quantile(way, 0.8) > SHOVED else "the heap stays"
