"""Release: a rope hangs in its catenary between two posts; one end comes loose and the rope swings down."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from phys4d.simulation.caption import article
from phys4d.simulation.rope.mounts import post
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.rope.strand import LINKS, STEPS_PER_SECOND, along, lay, rope, soft_contacts
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play

SWUNG = 0.3  # metres that the loose end goes


def release(random: np.random.Generator) -> Scene:
    """Draws a scene: posts 0.75 to 0.95 m apart, a rope 3 to 30 % longer than that."""
    view = staging.view(random, distance=(1.4, 1.6), target_height=0.38)
    room, light = staging.room(random), staging.light(random)
    strand = rope(random, staging.colours(random, 1)[0])
    axes = view.level_axes()
    side = int(random.choice([-1, 1]))  # of the end that holds
    direction = -side * staging.heading(axes, random.uniform(-0.25, 0.25))
    span = random.uniform(0.62, 0.76)
    length = span * random.uniform(1.03, 1.3)
    # The end that holds is nearer to the middle, since the rope swings past it.
    first = axes[1] * random.uniform(-0.05, 0.2) - direction * (span / 2 - 0.13)
    # The loose end clears the floor or sweeps over it.
    first[2] = min(length + random.uniform(-0.15, 0.05), 0.85)
    shape = catenary(span, length)
    points = along(lambda u: first + shape(u)[:, :1] * direction + shape(u)[:, 1:] * np.array([0, 0, 1]))
    grey = muted(random, 0.35, 0.6)
    posts = tuple(post(point, axes[1], strand.radius, grey) for point in (points[0], points[-1]))
    model = Mjcf(room)
    soft_contacts(model)
    links, _, _ = lay(model, strand, points, pinned=True)
    loose = "left" if side > 0 else "right"
    return RopeScene(
        family="release",
        kind="rope",
        room=room,
        view=view,
        light=light,
        props=posts,
        things=(strand.thing(links),),
        ropes=(strand.name,),
        model=model.text(),
        caption=(
            f"{article(strand.name)} at rest hangs between two posts; its {loose} end comes loose and it swings down"
        ),
        steps_per_second=STEPS_PER_SECOND,
        happened=_swung,
        physics={"rope_length": length},
    )


def catenary(span: float, length: float) -> Callable[[np.ndarray], np.ndarray]:
    """The curve of a hanging chain between two points of equal height: parameters [N] to (ahead, up) [N, 2] metres."""
    scale = brentq(lambda a: 2 * a * np.sinh(span / (2 * a)) - length, span / 20, span * 50)

    def curve(parameter: np.ndarray) -> np.ndarray:
        ahead = (parameter - 0.5) * span
        up = scale * (np.cosh(ahead / scale) - np.cosh(span / (2 * scale)))
        return np.stack([ahead + span / 2, up], axis=1)

    return curve


def _swung(play: Play) -> str | None:
    """The loose end goes a long way."""
    end = play.geoms[f"link{LINKS - 1}"].position
    return None if np.linalg.norm(end - end[0], axis=1).max() > SWUNG else "the rope stays up"
