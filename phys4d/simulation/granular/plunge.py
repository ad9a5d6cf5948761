"""Plunge: a box, a cylinder or a capsule falls into a bed of grains in an open box."""

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Prop, Shape
from phys4d.simulation.caption import article
from phys4d.simulation.granular.grains import STEPS_PER_SECOND, fill, grains, granular_model, packed
from phys4d.simulation.granular.heaps import settled
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.mjcf import add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body

BODY = "body"
BOARD = 0.012  # half the thickness of a board, metres
SETTLING = 0.6  # s
MOST = 290  # grains
SUNK = 0.4  # share of the body's size that it goes below the bed's surface
SHAPES: tuple[Shape, ...] = ("box", "cylinder", "capsule")


def plunge(random: np.random.Generator) -> Scene:
    """Draws a scene: a bed of up to MOST grains, a body 0.2 to 0.35 m above it, any way up."""
    view = staging.view(random, distance=(1.15, 1.3), height=(0.85, 1.1), target_height=0.22)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    kind = grains(random, names[0], random.uniform(0.024, 0.027))
    axes = view.level_axes()
    half = np.array([random.uniform(0.22, 0.26), random.uniform(0.18, 0.22), random.uniform(0.06, 0.07)])
    turn = np.arctan2(axes[0, 1], axes[0, 0]) + random.uniform(-0.5, 0.5)
    along = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    centre = axes[0] * random.uniform(-0.06, 0.06) + axes[1] * random.uniform(0.0, 0.15)
    props = _box(random, centre, turn, half)
    bed = packed(kind.radius, np.array([-half[0], -half[1], 0]), np.array([half[0], half[1], 3.1 * half[2]]))
    # Loosely: a third is left out before the bed settles.
    bed = bed[random.uniform(size=len(bed)) < 0.68][:MOST]
    shape = SHAPES[random.integers(len(SHAPES))]
    size = staging.size_of(shape, random.uniform(0.1, 0.125))
    aim = np.array([random.uniform(-0.3, 0.3) * half[0], random.uniform(-0.3, 0.3) * half[1], 0]) @ along
    above = np.array([0, 0, 2 * half[2] + shapes.bounding_radius(shape, size) + random.uniform(0.2, 0.35)])
    body = staging.body(
        random, shape, names[1], size, centre + aim + above, materials=("clay", "marble", "steel"),
        quaternion=staging.turned(random.uniform(0, np.pi), random.uniform(0, np.pi), random.uniform(0, np.pi)),
    )  # fmt: skip
    model = granular_model(room, props)
    thing = fill(model, random, kind, bed @ along + centre, rolls_freely=True)
    add_body(model.world, body, BODY, condim="4")
    return GrainScene(
        family="plunge",
        kind="granular",
        room=room,
        view=view,
        light=light,
        props=props,
        things=(of_body(body, BODY), thing),
        grains=thing.name,
        model=model.text(),
        caption=f"{article(body.name)} from rest falls into {kind.name} at rest in an open box",
        steps_per_second=STEPS_PER_SECOND,
        start=settled(SETTLING),
        happened=_sunk,
        penetration=0.02,
    )


def _box(random: np.random.Generator, centre: np.ndarray, turn: float, half: np.ndarray) -> tuple[Prop, ...]:
    """Four low boards around a piece of the floor."""
    tone, friction = muted(random, 0.5, 0.75), random.uniform(0.35, 0.5)
    c, s = np.cos(turn), np.sin(turn)
    boards = []
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        out = np.array([x * (half[0] + BOARD), y * (half[1] + BOARD)])
        long = half[1] if x else half[0] + 2 * BOARD
        size = (BOARD, float(long), float(half[2])) if x else (float(long), BOARD, float(half[2]))
        place = (float(centre[0] + c * out[0] - s * out[1]), float(centre[1] + s * out[0] + c * out[1]), float(half[2]))
        w, i, j, k = (float(value) for value in staging.turned(turn))
        boards.append(Prop("board", "box", tone, Texture.PLANKS, size, friction, place, (w, i, j, k)))
    return tuple(boards)


def _sunk(play: Play) -> str | None:
    """The body goes into the bed."""
    grains_at_first = [track.position[0, 2] for name, track in play.geoms.items() if name.startswith("grain")]
    size = float(play.model.geom(BODY).size[0])
    lowest = play.geoms[BODY].position[:, 2].min() - size
    return None if lowest < np.quantile(grains_at_first, 0.95) - SUNK * size else "the body stays on top"
