"""Wobble: a soft body falls from rest on the floor, is squashed and wobbles."""

import numpy as np

from phys4d.simulation.caption import article
from phys4d.simulation.deformable import shape
from phys4d.simulation.deformable import soft as softness
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.play import Play

SQUASHED = 0.08  # strain


def wobble(random: np.random.Generator) -> Scene:
    """Draws a scene: a soft ball, box or cylinder, upright or tilted, 15 to 45 cm above the floor."""
    view = staging.view(random, distance=(1.2, 1.4), height=(0.5, 0.9), target_height=0.3)
    room = staging.room(random)
    (name,) = staging.colours(random, 1)
    axes = view.level_axes()
    kinds: list[softness.SoftShape] = ["box", "ball", "cylinder"]
    kind = kinds[random.choice(3, p=[0.5, 0.25, 0.25])]
    size = staging.size_of(kind, random.uniform(0.19, 0.23))
    body = softness.soft(random, name, kind, size)
    tilt = 0.0 if kind == "cylinder" else random.choice([0.0, 1.0]) * random.uniform(0.1, 0.5)
    turn = staging.turned(random.uniform(0, np.pi / 2), tilt, random.uniform(0, 2 * np.pi))
    height = random.uniform(0.15, 0.4) + 1.2 * max(size)
    at = random.uniform(-0.12, 0.12) * axes[0] + random.uniform(-0.05, 0.15) * axes[1]
    mjcf = softness.model(room)
    softness.add_soft(mjcf, body, "soft", at + np.array([0, 0, height]), turn)
    return softness.scene(
        random, "wobble", view, room, mjcf, (softness.thing(body, "soft"),),
        f"{article(body.name)} falls from rest and wobbles", _squashed,
    )  # fmt: skip


def _squashed(play: Play) -> str | None:
    """It hits the floor with time left, and is squashed."""
    if shape.first_touch(play) > 0.6 * play.frames:
        return "no contact in time"
    return None if shape.strain(play, "soft").max() > SQUASHED else "little squashed"
