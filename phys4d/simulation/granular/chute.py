"""Chute: grains slide down a trough and over its end, onto the floor."""

import numpy as np

from phys4d.simulation.body import Prop
from phys4d.simulation.granular.grains import (
    STEPS_PER_SECOND,
    add_grains,
    closest_packing,
    grain_heights,
    granular_model,
    sample_grains,
)
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

BOARD = 0.012  # half the thickness of a board, metres
LEG = 0.012  # metres, radius
POURED = 0.25  # share of the grains that must leave the chute


def chute(rng: np.random.Generator) -> Scene:
    """Samples a scene: up to 380 grains in a trough inclined by 32 to 41 degrees, its lip 0.16 to 0.24 m above the
    floor.
    """
    view = sampling.view(rng, distance=(1.45, 1.6), height=(0.75, 1.05), target_height=0.3)
    room, light = sampling.room(rng), sampling.light(rng)
    grains = sample_grains(rng, sampling.colours(rng, 1)[0], rng.uniform(0.022, 0.025))
    axes = view.level_axes()
    side = int(rng.choice([-1, 1]))  # +1: the grains slide to the right
    # Partly towards the camera, which looks into the trough.
    direction = poses.heading(axes * np.array([[side], [1], [1]]), rng.uniform(-0.9, -0.35))
    degrees = int(rng.integers(32, 42))
    slope = float(np.deg2rad(degrees))
    half = np.array([rng.uniform(0.28, 0.32), rng.uniform(0.15, 0.18), BOARD])
    turn = poses.heading_pitch(direction, slope)
    down = rotation(turn)
    lip = rng.uniform(0.16, 0.24)
    centre = -direction * rng.uniform(0.16, 0.22) + axes[1] * rng.uniform(0.05, 0.2)
    centre[2] = lip + half[0] * np.sin(slope) + BOARD
    props = _trough(centre, turn, half, 2 * grains.radius, rng)
    low = np.array([-half[0], -half[1], BOARD + 0.001])
    places = closest_packing(grains.radius, low, np.array([0.55 * half[0], half[1], BOARD + 7.5 * grains.radius]))
    places = places[rng.uniform(size=len(places)) < 0.93][: int(rng.uniform(260, 380))]
    model = granular_model(room, props)
    grains_object = add_grains(model, rng, grains, centre + places @ down.T)
    return GrainScene(
        family="chute",
        category_name="granular",
        room=room,
        view=view,
        light=light,
        props=props,
        scene_objects=(grains_object,),
        grains=grains_object.name,
        model=model.text(),
        caption=(
            f"{len(places)} {grains.name} from rest slide down a chute {degrees} degrees steep and pour onto the floor"
        ),
        steps_per_second=STEPS_PER_SECOND,
        rejection_reason=lambda rollout: _poured(rollout, lip),
    )


def _trough(
    centre: np.ndarray, turn: np.ndarray, half: np.ndarray, deep: float, rng: np.random.Generator
) -> tuple[Prop, ...]:
    """A board, two sides and a back on four legs; open above and at the lower end."""
    axes, tone, friction = rotation(turn), muted(rng, 0.5, 0.75), rng.uniform(0.2, 0.3)
    wall = half[1] + BOARD
    boards = (
        ("chute", np.zeros(3), half),
        ("side", np.array([0, wall, deep - BOARD]), np.array([half[0], BOARD, deep])),
        ("side", np.array([0, -wall, deep - BOARD]), np.array([half[0], BOARD, deep])),
        ("back", np.array([-half[0] - BOARD, 0, deep - BOARD]), np.array([BOARD, half[1] + 2 * BOARD, deep])),
    )
    w, i, j, k = (float(value) for value in turn)
    props = []
    for name, offset, size in boards:
        x, y, z = (float(value) for value in centre + axes @ offset)
        sizes = tuple(float(value) for value in size)
        props.append(Prop(name, "box", tone, Texture.PLANKS, sizes, friction, (x, y, z), (w, i, j, k)))
    for along, across in ((-0.85, -0.85), (-0.85, 0.85), (0.6, -0.85), (0.6, 0.85)):
        x, y, z = (float(value) for value in centre + axes @ np.array([along * half[0], across * half[1], -BOARD]))
        props.append(Prop("leg", "cylinder", tone, Texture.PLANKS, (LEG, z / 2), friction, (x, y, z / 2)))
    return tuple(props)


def _poured(rollout: Rollout, lip: float) -> str | None:
    """Checks that many grains end below the chute."""
    return None if (grain_heights(rollout)[-1] < lip).mean() > POURED else "stays on the chute"
