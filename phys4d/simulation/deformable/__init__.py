"""Soft solids; each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.deformable.beam import sag
from phys4d.simulation.deformable.impact import dent, press, squash
from phys4d.simulation.deformable.wobble import wobble
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "wobble": wobble,
    "squash": squash,
    "press": press,
    "dent": dent,
    "sag": sag,
}

__all__ = ["FAMILIES"]
