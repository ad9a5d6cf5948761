"""Impact: a soft body falls onto a rigid one, a rigid one onto a soft one, or one dents a block of clay."""

import numpy as np

from phys4d.simulation.body import Prop, Shape
from phys4d.simulation.caption import article
from phys4d.simulation.deformable import shape
from phys4d.simulation.deformable import soft as softness
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted
from phys4d.simulation.world.mjcf import add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body

DEFORMED = 0.08  # strain
DENTED = 0.02  # metres


def squash(random: np.random.Generator) -> Scene:
    """Draws a scene: a soft ball, box or cylinder falls onto the edge of a fixed block, or onto a fixed post."""
    view = staging.view(random, distance=(1.25, 1.45), height=(0.6, 0.95), target_height=0.33)
    room = staging.room(random)
    (name,) = staging.colours(random, 1)
    axes = view.level_axes()
    kinds: list[softness.SoftShape] = ["ball", "box", "cylinder"]
    kind = kinds[random.choice(3, p=[0.45, 0.35, 0.2])]
    size = staging.size_of(kind, random.uniform(0.17, 0.2))
    body = softness.soft(random, name, kind, size)
    at = random.uniform(-0.12, 0.12) * axes[0] + random.uniform(0.0, 0.15) * axes[1]
    below, top = _obstacle(random, at)
    off = staging.heading(axes, random.uniform(0, 2 * np.pi)) * random.uniform(0.0, 0.1)
    height = top + max(size) * 1.25 + random.uniform(0.08, 0.25)
    mjcf = softness.model(room, (below,))
    turn = staging.turned(random.uniform(0, np.pi / 2))
    softness.add_soft(mjcf, body, "soft", at + off + np.array([0, 0, height]), turn)
    return softness.scene(
        random, "squash", view, room, mjcf, (softness.thing(body, "soft"),),
        f"{article(body.name)} falls from rest onto {article(below.name)}", _squashed, props=(below,),
    )  # fmt: skip


def _obstacle(random: np.random.Generator, at: np.ndarray) -> tuple[Prop, float]:
    """A fixed ridge, post or log on the floor, and its height in metres."""
    grey = muted(random, 0.45, 0.75)
    name = str(random.choice(["ridge", "post", "log"]))
    x, y = float(at[0]), float(at[1])
    yaw = random.uniform(-0.6, 0.6)
    if name == "post":
        half = random.uniform(0.08, 0.14)
        size = (random.uniform(0.06, 0.09), half)
        return Prop(name, "cylinder", grey, Texture.CONCRETE, size, 0.6, (x, y, half)), 2 * half
    if name == "log":
        radius = random.uniform(0.06, 0.09)
        w, i, j, k = (float(q) for q in staging.pitched(np.array([np.sin(yaw), np.cos(yaw), 0.0]), np.pi / 2))
        size = (radius, 0.35)
        return Prop(name, "cylinder", grey, Texture.GRAIN, size, 0.6, (x, y, radius), (w, i, j, k)), 2 * radius
    # A square bar turned by an eighth, half of it in the floor.
    half = random.uniform(0.1, 0.15)
    w, i, j, k = (float(q) for q in staging.pitched(np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.pi / 4))
    return Prop(name, "box", grey, Texture.CONCRETE, (half, 0.35, half), 0.6, (x, y, 0.0), (w, i, j, k)), half * 2**0.5


def press(random: np.random.Generator) -> Scene:
    """Draws a scene: a heavy ball, box or cylinder falls onto a soft block that rests on the floor."""
    return _struck(random, "press", ("jelly", "soft rubber"), ("steel", "marble", "clay"), _pressed)


def dent(random: np.random.Generator) -> Scene:
    """Draws a scene: a steel or marble body falls onto a block of soft clay, which keeps the dent."""
    return _struck(random, "dent", ("soft clay",), ("steel", "marble"), _dented)


def _struck(random, family, materials, heavy, happened) -> Scene:
    view = staging.view(random, distance=(1.15, 1.35), height=(0.65, 0.95), target_height=0.25)
    room = staging.room(random)
    names = staging.colours(random, 2)
    axes = view.level_axes()
    half = (random.uniform(0.18, 0.23), random.uniform(0.18, 0.23), random.uniform(0.08, 0.12))
    block = softness.soft(random, names[1], "box", half, points=(8, 8, 5), materials=materials)
    at = random.uniform(-0.1, 0.1) * axes[0] + random.uniform(0.0, 0.15) * axes[1]
    yaw = random.uniform(0, np.pi / 2)
    shapes: list[Shape] = ["ball", "box", "cylinder"]
    kind = shapes[random.choice(3, p=[0.5, 0.25, 0.25])]
    size = staging.size_of(kind, random.uniform(0.08, 0.11))
    off = staging.heading(axes, random.uniform(0, 2 * np.pi)) * random.uniform(0.0, 0.06)
    height = 2 * half[2] + 1.3 * max(size) + random.uniform(0.12, 0.3)
    weight = staging.body(
        random, kind, names[0], size, at + off + np.array([0, 0, height]),
        quaternion=staging.turned(random.uniform(0, np.pi / 2), random.uniform(0, 0.3), random.uniform(0, 6)),
        materials=heavy,
    )  # fmt: skip
    mjcf = softness.model(room)
    softness.add_soft(mjcf, block, "soft", at + np.array([0, 0, half[2] + softness.RADIUS]), staging.turned(yaw))
    add_body(mjcf.world, weight, "body")
    does = "dents" if family == "dent" else "falls onto"
    begins = "falling from rest" if family == "dent" else "from rest"
    return softness.scene(
        random, family, view, room, mjcf, (of_body(weight, "body"), softness.thing(block, "soft")),
        f"{article(weight.name)} {begins} {does} {article(block.name)} at rest", happened,
    )  # fmt: skip


def _squashed(play: Play) -> str | None:
    if shape.first_touch(play) > 0.6 * play.frames:
        return "no contact in time"
    return None if shape.strain(play, "soft").max() > DEFORMED else "little squashed"


def _pressed(play: Play) -> str | None:
    """The weight sinks into the block by a length that shows."""
    return None if _depth(play).max() > DENTED else "little pressed"


def _dented(play: Play) -> str | None:
    return None if _depth(play)[-1] > DENTED else "little dented"


def _depth(play: Play) -> np.ndarray:
    """How far the lowest point of the block's top is below where the top was at first [T]."""
    place = play.flexes["soft"]
    start = place[0]
    top = start[:, 2] > start[:, 2].max() - 0.012
    return start[top, 2].mean() - place[:, top, 2].min(axis=1)
