"""Plunge: a box, a cylinder or a capsule falls into a bed of grains in an open box."""

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Prop, Shape
from phys4d.simulation.caption import article
from phys4d.simulation.granular.grains import (
    STEPS_PER_SECOND,
    add_grains,
    closest_packing,
    granular_model,
    sample_grains,
)
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.granular.settling import settle_before
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.mujoco_scenes.mjcf import add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

BODY = "body"
BOARD = 0.012  # half the thickness of a board, metres
SETTLING = 0.6  # s
MOST = 290  # grains
SUNK = 0.4  # depth below the bed's surface that the body must reach, over its size
SHAPES: tuple[Shape, ...] = ("box", "cylinder", "capsule")


def plunge(rng: np.random.Generator) -> Scene:
    """Samples a scene: a bed of up to MOST grains, and a body 0.2 to 0.35 m above it in any orientation."""
    view = sampling.view(rng, distance=(1.15, 1.3), height=(0.85, 1.1), target_height=0.22)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 2)
    grains = sample_grains(rng, names[0], rng.uniform(0.024, 0.027))
    axes = view.level_axes()
    half = np.array([rng.uniform(0.22, 0.26), rng.uniform(0.18, 0.22), rng.uniform(0.06, 0.07)])
    turn = np.arctan2(axes[0, 1], axes[0, 0]) + rng.uniform(-0.5, 0.5)
    along = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    centre = axes[0] * rng.uniform(-0.06, 0.06) + axes[1] * rng.uniform(0.0, 0.15)
    props = _box(rng, centre, turn, half)
    bed = closest_packing(grains.radius, np.array([-half[0], -half[1], 0]), np.array([half[0], half[1], 3.1 * half[2]]))
    # Loose: a third is left out before the bed settles.
    bed = bed[rng.uniform(size=len(bed)) < 0.68][:MOST]
    shape = SHAPES[rng.integers(len(SHAPES))]
    size = sampling.size_for_radius(shape, rng.uniform(0.1, 0.125))
    aim = np.array([rng.uniform(-0.3, 0.3) * half[0], rng.uniform(-0.3, 0.3) * half[1], 0]) @ along
    above = np.array([0, 0, 2 * half[2] + shapes.bounding_radius(shape, size) + rng.uniform(0.2, 0.35)])
    body = sampling.body(
        rng, shape, names[1], size, centre + aim + above, materials=("clay", "marble", "steel"),
        quaternion=poses.yaw_tilt(rng.uniform(0, np.pi), rng.uniform(0, np.pi), rng.uniform(0, np.pi)),
    )  # fmt: skip
    model = granular_model(room, props)
    grains_object = add_grains(model, rng, grains, bed @ along + centre, without_rolling_friction=True)
    add_body(model.world, body, BODY)
    return GrainScene(
        family="plunge",
        category_name="granular",
        room=room,
        view=view,
        light=light,
        props=props,
        scene_objects=(object_from_body(body, BODY), grains_object),
        grains=grains_object.name,
        model=model.text(),
        caption=f"{article(body.name)} from rest falls into {grains.name} at rest in an open box",
        steps_per_second=STEPS_PER_SECOND,
        start=settle_before(SETTLING),
        rejection_reason=_sunk,
        penetration=0.02,
    )


def _box(rng: np.random.Generator, centre: np.ndarray, turn: float, half: np.ndarray) -> tuple[Prop, ...]:
    """Four low boards around an area of the floor."""
    tone, friction = muted(rng, 0.5, 0.75), rng.uniform(0.35, 0.5)
    c, s = np.cos(turn), np.sin(turn)
    boards = []
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        out = np.array([x * (half[0] + BOARD), y * (half[1] + BOARD)])
        long = half[1] if x else half[0] + 2 * BOARD
        size = (BOARD, float(long), float(half[2])) if x else (float(long), BOARD, float(half[2]))
        place = (float(centre[0] + c * out[0] - s * out[1]), float(centre[1] + s * out[0] + c * out[1]), float(half[2]))
        w, i, j, k = (float(value) for value in poses.yaw_tilt(turn))
        boards.append(Prop("board", "box", tone, Texture.PLANKS, size, friction, place, (w, i, j, k)))
    return tuple(boards)


def _sunk(rollout: Rollout) -> str | None:
    """Checks that the body sinks into the bed."""
    grains_at_first = [track.position[0, 2] for name, track in rollout.geoms.items() if name.startswith("grain")]
    size = float(rollout.model.geom(BODY).size[0])
    lowest = rollout.geoms[BODY].position[:, 2].min() - size
    return None if lowest < np.quantile(grains_at_first, 0.95) - SUNK * size else "the body stays on top"
