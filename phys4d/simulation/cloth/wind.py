"""Wind: a level wind of a stated speed blows a flag round its pole, or a curtain off its bar."""

import numpy as np

from phys4d.simulation.body import Prop
from phys4d.simulation.caption import article
from phys4d.simulation.cloth import fabric, rack
from phys4d.simulation.cloth.air import Air
from phys4d.simulation.cloth.fabric import Cloth
from phys4d.simulation.scene import Scene, View
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene

BLOWN = 0.12  # metres that the middle of the cloth moves along the wind
THIN = ("cotton", "wool")


def flag(random: np.random.Generator) -> Scene:
    """Draws a scene: a flag that points away from where the wind will take it, by 70 to 150 degrees."""
    view = staging.view(random, distance=(1.5, 1.7), height=(0.65, 0.95), target_height=0.5)
    axes = view.level_axes()
    (name,) = staging.colours(random, 1)
    cloth = fabric.cloth(random, name, (random.uniform(0.2, 0.25), random.uniform(0.27, 0.32)), fabrics=THIN)
    side = float(random.choice([-1, 1]))
    turn = random.choice([-1, 1]) * random.uniform(1.2, 2.6)
    points_to = staging.heading(axes, turn) * side
    top = random.uniform(0.85, 0.92)
    foot = axes[0] * -side * random.uniform(0.0, 0.12) + axes[1] * random.uniform(0.0, 0.2)
    # The flag's first side runs down the pole, its second one away from it.
    down = np.array([0.0, 0.0, -1.0]) * (cloth.flat[:, :1] + cloth.half[0])
    points = foot + np.array([0, 0, top]) + down + (cloth.flat[:, 1:2] + cloth.half[1]) * points_to
    pinned = np.arange(cloth.count) * cloth.count
    speed = round(float(random.uniform(2.5, 4.0)), 1)
    props = (rack.pole(foot, top + 0.03, muted(random, 0.3, 0.6)),)
    words = f"a level wind of {speed:.1f} m/s to the {'right' if side > 0 else 'left'}"
    return _blown(
        random, "flag", view, cloth, points, pinned, props, side * speed * axes[0],
        f"{words} blows {article(cloth.name)} at rest round a pole",
    )  # fmt: skip


def curtain(random: np.random.Generator) -> Scene:
    """Draws a scene: a curtain hangs down from a bar; the wind blows across it."""
    view = staging.view(random, distance=(1.5, 1.7), height=(0.65, 0.95), target_height=0.42)
    axes = view.level_axes()
    (name,) = staging.colours(random, 1)
    cloth = fabric.cloth(random, name, (random.uniform(0.28, 0.33), random.uniform(0.26, 0.34)), fabrics=THIN)
    side = float(random.choice([-1, 1]))
    # The wind is along the camera's right; the curtain is seen at a slant.
    across = staging.heading(axes, random.choice([-1, 1]) * random.uniform(0.9, 1.25))
    height = 2 * cloth.half[0] + random.uniform(0.1, 0.18)
    middle = -side * random.uniform(0.1, 0.25) * axes[0] + random.uniform(0.05, 0.2) * axes[1]
    middle = middle + np.array([0, 0, height])
    down = np.array([0.0, 0.0, -1.0])
    points = middle + (cloth.flat[:, :1] + cloth.half[0]) * down + cloth.flat[:, 1:2] * across
    reach = (cloth.half[1] + 0.05) * across
    props = rack.rack(middle - reach, middle + reach, muted(random, 0.3, 0.6))
    speed = round(float(random.uniform(3.0, 5.0)), 1)
    words = f"a level wind of {speed:.1f} m/s to the {'right' if side > 0 else 'left'}"
    return _blown(
        random, "curtain", view, cloth, points, np.arange(cloth.count), props, side * speed * axes[0],
        f"{words} lifts {article(cloth.name)} that hangs at rest from a bar",
    )  # fmt: skip


def _blown(
    random: np.random.Generator,
    family: str,
    view: View,
    cloth: Cloth,
    points: np.ndarray,
    pinned: np.ndarray,
    props: tuple[Prop, ...],
    wind: np.ndarray,
    caption: str,
) -> Scene:
    """The scene of a cloth in a wind, world m/s [3]."""
    room, light = staging.room(random), staging.light(random)
    mjcf = fabric.model(room, props)
    rack.intangible(mjcf)
    fabric.add_cloth(mjcf, cloth, points, pinned=pinned)
    x, y, z = (float(value) for value in wind)

    def happened(play: Play) -> str | None:
        middle = play.flexes["cloth"].mean(axis=1)
        way = (middle - middle[0]) @ wind / np.linalg.norm(wind)
        return None if way.max() > BLOWN else "little effect of the wind"

    return WorldScene(
        family=family,
        kind="cloth",
        room=room,
        view=view,
        light=light,
        props=props,
        things=(fabric.thing(cloth),),
        model=mjcf.text(),
        caption=caption,
        steps_per_second=fabric.STEPS_PER_SECOND,
        happened=happened,
        drive=Air((x, y, z)),
        physics=fabric.PHYSICS | {"wind": [x, y, z]},
        penetration=fabric.PENETRATION,
        closed=False,
    )
