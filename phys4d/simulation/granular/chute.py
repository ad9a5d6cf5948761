"""Chute: grains slide down a trough and off its end, onto the floor."""

import numpy as np

from phys4d.simulation.body import Prop
from phys4d.simulation.granular.grains import STEPS_PER_SECOND, fill, grains, granular_model, heights, packed
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.play import Play

BOARD = 0.012  # half the thickness of a board, metres
POURED = 0.25  # share of the grains that leave the chute


def chute(random: np.random.Generator) -> Scene:
    """Draws a scene: 260 to 380 grains on a trough at 30 to 40 degrees that ends 0.2 to 0.3 m above the floor."""
    view = staging.view(random, distance=(1.45, 1.6), height=(0.75, 1.05), target_height=0.3)
    room, light = staging.room(random), staging.light(random)
    kind = grains(random, staging.colours(random, 1)[0], random.uniform(0.022, 0.025))
    axes = view.level_axes()
    side = int(random.choice([-1, 1]))  # to which the grains go
    # A little towards the camera, which looks into the trough.
    direction = staging.heading(axes * np.array([[side], [1], [1]]), random.uniform(-0.9, -0.35))
    slope = random.uniform(0.55, 0.72)
    half = np.array([random.uniform(0.28, 0.32), random.uniform(0.15, 0.18), BOARD])
    turn = staging.pitched(direction, slope)
    down = rotation(turn)
    lip = random.uniform(0.16, 0.24)
    centre = -direction * random.uniform(0.16, 0.22) + axes[1] * random.uniform(0.05, 0.2)
    centre[2] = lip + half[0] * np.sin(slope) + BOARD
    props = _trough(centre, turn, half, 2 * kind.radius, random)
    low = np.array([-half[0], -half[1], BOARD + 0.001])
    places = packed(kind.radius, low, np.array([0.55 * half[0], half[1], BOARD + 7.5 * kind.radius]))
    places = places[random.uniform(size=len(places)) < 0.93][: int(random.uniform(260, 380))]
    model = granular_model(room, props)
    thing = fill(model, random, kind, centre + places @ down.T)
    return GrainScene(
        family="chute",
        kind="granular",
        room=room,
        view=view,
        light=light,
        props=props,
        things=(thing,),
        grains=thing.name,
        model=model.text(),
        caption=f"{kind.name} from rest slide down a chute and pour onto the floor",
        steps_per_second=STEPS_PER_SECOND,
        happened=lambda play: _poured(play, lip),
    )


def _trough(
    centre: np.ndarray, turn: np.ndarray, half: np.ndarray, deep: float, random: np.random.Generator
) -> tuple[Prop, ...]:
    """A board, its two sides and a back, open above and at the lower end."""
    axes, tone, friction = rotation(turn), muted(random, 0.5, 0.75), random.uniform(0.2, 0.3)
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
    return tuple(props)


def _poured(play: Play, lip: float) -> str | None:
    """Many grains end below the chute."""
    return None if (heights(play)[-1] < lip).mean() > POURED else "stays on the chute"
