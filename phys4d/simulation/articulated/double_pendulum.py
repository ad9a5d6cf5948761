"""Double pendulum: two bars hinged to each other swing down from an axle."""

from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.events import turns
from phys4d.simulation.articulated.joinery import LYING, Make, begin, hinge, make, mount, part, solid
from phys4d.simulation.caption import article
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene

HALF_THICK = 0.014
SWUNG = 1.0  # radians


def double_pendulum(random: np.random.Generator) -> Scene:
    """Draws a scene: both bars from rest, the upper one 50 to 110 degrees off the vertical, the lower one anyhow."""
    view = staging.view(random, distance=(1.45, 1.65), height=(0.7, 1.0), target_height=0.5)
    room, light = staging.room(random), staging.light(random)
    upper, lower = (make(random, name, ("wood", "plastic", "steel")) for name in staging.colours(random, 2))
    lengths = random.uniform(0.26, 0.34), random.uniform(0.22, 0.3)
    wide = random.uniform(0.036, 0.05)
    disc = random.uniform(0.085, 0.12)
    axes = view.level_axes()
    direction = staging.heading(axes, random.uniform(-0.3, 0.3))
    away = np.array([-direction[1], direction[0], 0.0])
    pivot = axes[0] * random.uniform(-0.08, 0.08) + axes[1] * random.uniform(0.0, 0.2)
    pivot = pivot + np.array([0, 0, sum(lengths) + disc + random.uniform(0.06, 0.12)])
    model = Mjcf(room, integrator="RK4")
    axle = (room.depth - pivot[1]) / away[1]
    frame = part(model.world, "frame", pivot, staging.pitched(direction, 0.0))
    mounted = solid(frame, "axle", "cylinder", (0.018, axle / 2 + 0.04), (0, axle / 2 - 0.04, 0), LYING, touches=False)
    near = -2 * HALF_THICK - 0.004
    first = part(frame, "upper")
    hinge(first, "shoulder", (0, 1, 0))
    geoms = [_bar(first, "upper", wide, lengths[0], upper)]
    second = part(first, "lower", (0, near, -lengths[0]))
    hinge(second, "elbow", (0, 1, 0))
    bars = [_bar(second, "lower", wide, lengths[1], lower)]
    for name, size, place in (("disc", (disc, 0.03), (0, 0, -lengths[1])), ("pin", (0.014, 0.031), (0, -near / 2, 0))):
        bars.append(solid(second, name, "cylinder", size, place, LYING, lower, touches=False))
    side = random.choice([-1, 1])
    shoulder = side * random.uniform(0.9, 1.9)
    elbow = random.uniform(-2.2, 2.2)
    return WorldScene(
        family="double_pendulum",
        kind="articulated",
        room=room,
        view=view,
        light=light,
        things=(
            upper.thing("bar", geoms),
            lower.thing("bar", bars, shades=(1.0, 1.0, 0.4)),
            mount("axle", [mounted]),
        ),
        model=model.text(),
        caption=(
            f"{article(upper.name)} bar on an axle and {article(lower.name)} bar hinged to its end, both from rest, "
            "swing down"
        ),
        steps_per_second=1200,
        start=begin({"shoulder": shoulder, "elbow": elbow}),
        happened=_swung,
        physics={"lengths": list(lengths)},
    )


def _bar(body: Xml.Element, name: str, wide: float, length: float, kind: Make) -> str:
    """A flat bar that reaches beyond both its pivots by half its width."""
    size = (wide, HALF_THICK, length / 2 + wide)
    return solid(body, name, "box", size, (0, 0, -length / 2), make=kind, touches=False)


def _swung(play: Play) -> str | None:
    """Both bars turn by a plain angle."""
    turned = min(turns(play.geoms[name])[-1] for name in ("upper", "lower"))
    return None if turned > SWUNG else "little swinging"
