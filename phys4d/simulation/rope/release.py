"""Release: a rope hangs as a catenary between two posts; one end is released and the rope swings down, or both are.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from phys4d.simulation.caption import article
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.rope.chain import (
    LINKS,
    STEPS_PER_SECOND,
    SWINGING,
    SWINGING_STEPS_PER_SECOND,
    add_rope,
    equidistant_points,
    sample_rope,
    set_soft_contacts,
)
from phys4d.simulation.rope.mounts import post
from phys4d.simulation.rope.scene import RopeScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

SWUNG = 0.3  # metres that the released end must move


def release(rng: np.random.Generator) -> Scene:
    """Samples a scene: posts 0.62 to 0.76 m apart, a rope 3 to 30 % longer than that; of 30 % both ends come loose."""
    view = sampling.view(rng, distance=(1.3, 1.45), target_height=0.4)
    room, light = sampling.room(rng), sampling.light(rng)
    strand = sample_rope(rng, sampling.colours(rng, 1)[0], (0.022, 0.028))
    axes = view.level_axes()
    side = int(rng.choice([-1, 1]))  # side of the fixed end
    direction = -side * poses.heading(axes, rng.uniform(-0.25, 0.25))
    span = rng.uniform(0.62, 0.76)
    length = round(span * rng.uniform(1.03, 1.3), 2)
    both = bool(rng.uniform() < 0.3)
    # The fixed end is nearer to the middle, since the rope swings past it.
    first = axes[1] * rng.uniform(-0.05, 0.2) - direction * (span / 2 - 0.13)
    # The released end passes just above the floor, or sweeps over it.
    first[2] = min(length + rng.uniform(-0.15, 0.05), 0.85)
    shape = catenary(span, length)
    points = equidistant_points(lambda u: first + shape(u)[:, :1] * direction + shape(u)[:, 1:] * np.array([0, 0, 1]))
    grey = muted(rng, 0.35, 0.6)
    posts = tuple(post(point, axes[1], strand.radius, grey) for point in (points[0], points[-1]))
    model = Mjcf(room) if both else Mjcf(room, integrator=SWINGING)
    set_soft_contacts(model)
    links, _, _ = add_rope(model, strand, points, pinned=not both)
    loose = "left" if side > 0 else "right"
    does = "both its ends come loose and it falls" if both else f"its {loose} end comes loose and it swings down"
    return RopeScene(
        family="release",
        category_name="rope",
        room=room,
        view=view,
        light=light,
        props=posts,
        scene_objects=(strand.scene_object(links),),
        ropes=(strand.name,),
        model=model.text(),
        caption=f"{article(strand.name)} {length:.2f} m long at rest hangs between two posts; {does}",
        steps_per_second=STEPS_PER_SECOND if both else SWINGING_STEPS_PER_SECOND,
        rejection_reason=_swung,
        endless=not both,
        physics={"rope_length": length},
    )


def catenary(span: float, length: float) -> Callable[[np.ndarray], np.ndarray]:
    """The curve of a chain hanging between two points of equal height: parameters [N] in 0..1 -> (ahead, up) [N, 2],
    metres.

    span: metres between the points.
    length: metres of the chain, longer than span.
    """
    scale = brentq(lambda a: 2 * a * np.sinh(span / (2 * a)) - length, span / 20, span * 50)

    def curve(parameter: np.ndarray) -> np.ndarray:
        ahead = (parameter - 0.5) * span
        up = scale * (np.cosh(ahead / scale) - np.cosh(span / (2 * scale)))
        return np.stack([ahead + span / 2, up], axis=1)

    return curve


def _swung(rollout: Rollout) -> str | None:
    """Checks that the released end moves far."""
    end = rollout.geoms[f"link{LINKS - 1}"].position
    return None if np.linalg.norm(end - end[0], axis=1).max() > SWUNG else "the rope stays up"
