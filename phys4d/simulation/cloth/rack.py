"""Poles and bars that hold cloth; they have no contacts."""

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scenery import poses

RADIUS = 0.014
FRICTION = 0.5


def pole(foot: np.ndarray, height: float, rgb: Colour) -> Prop:
    """An upright pole on the floor; height in metres."""
    x, y = float(foot[0]), float(foot[1])
    return Prop("pole", "cylinder", rgb, Texture.PLAIN, (RADIUS, height / 2), FRICTION, (x, y, height / 2))


def rack(start: np.ndarray, end: np.ndarray, rgb: Colour) -> tuple[Prop, ...]:
    """A level bar between two points of equal height (metres), with a pole under each end."""
    along = end - start
    length = float(np.linalg.norm(along))
    x, y, z = (float(value) for value in (start + end) / 2)
    w, i, j, k = (float(value) for value in poses.heading_pitch(along / length, np.pi / 2))
    bar = Prop("bar", "cylinder", rgb, Texture.PLAIN, (RADIUS, length / 2 + RADIUS), FRICTION, (x, y, z), (w, i, j, k))
    return bar, pole(start, z, rgb), pole(end, z, rgb)

