"""Beam: a soft bar, clamped at one end, bends under its weight and oscillates."""

import numpy as np

from phys4d.simulation.body import Body, Prop, Shape
from phys4d.simulation.caption import article
from phys4d.simulation.deformable import soft_body
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.mujoco_scenes.mjcf import FIRM, add_body, disable_contacts
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

SAGS = 0.1  # metres that the free end must move down


def sag(rng: np.random.Generator) -> Scene:
    """Samples a scene: the bar projects sideways from a fixed block, tilted by -10 to 30 degrees; 35 % are nearly level
    and have a body on their free end.
    """
    view = sampling.view(rng, distance=(1.15, 1.35), height=(0.5, 0.85), target_height=0.35)
    room = sampling.room(rng)
    names = sampling.colours(rng, 2)
    axes = view.level_axes()
    length, thick = rng.integers(27, 37) / 100, rng.uniform(0.05, 0.065)
    body = soft_body.sample_soft_body(
        rng, names[0], "box", (length, rng.uniform(0.06, 0.1), thick), points=(15, 5, 5),
        materials=("jelly", "soft rubber", "soft rubber"),
    )  # fmt: skip
    side = float(rng.choice([-1, 1]))
    out = poses.heading(axes, rng.uniform(-0.5, 0.5)) * side
    loaded = bool(rng.uniform() < 0.35)
    degrees = int(rng.integers(-5, 6) if loaded else rng.integers(-10, 31))
    rise = float(np.deg2rad(degrees))
    turn = poses.heading_pitch(out, -rise)
    along = np.cos(rise) * out + np.array([0, 0, np.sin(rise)])
    held = -0.3 * axes[0] * side + rng.uniform(0.0, 0.15) * axes[1] + np.array([0, 0, rng.uniform(0.4, 0.5)])
    # Two layers of its points are inside the block.
    buried = 2 * length / 14
    x, y, z = (float(value) for value in held + along * (buried - 0.09))
    w, i, j, k = (float(value) for value in turn)
    half = (0.09, body.size[1] + 0.05, thick + 0.05)
    grey = muted(rng, 0.45, 0.75)
    props = (
        Prop("block", "box", grey, Texture.GRAIN, half, 0.5, (x, y, z), (w, i, j, k)),
        Prop("column", "cylinder", grey, Texture.GRAIN, (0.05, (z - 0.04) / 2), 0.5, (x, y, (z - 0.04) / 2)),
    )
    mjcf = soft_body.model(room, props)
    disable_contacts(mjcf, "prop")
    pinned = np.flatnonzero(body.rest[:, 0] < -length + buried * 1.01)
    soft_body.add_soft(mjcf, body, "soft", held + along * length, turn, pinned=pinned)
    objects = [soft_body.scene_object(body, "soft")]
    tilt = f"tilted {'up' if degrees > 0 else 'down'} by {abs(degrees)} degrees" if degrees else "level"
    sentence = f"{article(body.colour)} {body.material} bar {2 * length:.2f} m long, {tilt}, held by a block at one end"
    if loaded:
        load = _load(rng, names[1], held + along * 1.75 * length, thick, turn)
        add_body(mjcf.world, load, "body", **FIRM)
        objects.append(object_from_body(load, "body"))
        sentence = f"{sentence}, bends down from rest under {article(load.name)} at rest on its other end"
    else:
        sentence = f"{sentence}, bends down from rest"

    def rejection_reason(rollout: Rollout) -> str | None:
        tip = rollout.flexes["soft"][:, body.rest[:, 0] > 0.9 * length, 2].mean(axis=1)
        return None if tip[0] - tip.min() > SAGS else "little sag"

    return soft_body.scene(
        rng, "sag", view, room, mjcf, tuple(objects), sentence, rejection_reason, props=props,
    )  # fmt: skip


def _load(rng: np.random.Generator, colour: str, place: np.ndarray, thick: float, turn: np.ndarray) -> Body:
    """A box or a cylinder that stands on the bar's upper side.

    place: [3], world metres, on the middle line of the bar.
    thick: metres, half the thickness of the bar.
    turn: quaternion of the bar.
    """
    shapes: list[Shape] = ["box", "cylinder"]
    shape = shapes[rng.integers(2)]
    radius = rng.uniform(0.045, 0.06)
    size = (radius,) * 3 if shape == "box" else (radius, radius)
    up = rotation(turn)[:, 2] * (thick + radius + soft_body.RADIUS)
    return sampling.body(
        rng, shape, colour, size, place + up, quaternion=turn, materials=("wood", "plastic", "rubber", "clay")
    )
