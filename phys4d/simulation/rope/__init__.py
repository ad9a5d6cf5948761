"""Ropes that fall, hang, swing and wrap around bars; each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.rope.coil import coil
from phys4d.simulation.rope.hoist import hoist
from phys4d.simulation.rope.overhang import overhang
from phys4d.simulation.rope.release import release
from phys4d.simulation.rope.wrap import wrap
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "overhang": overhang,
    "release": release,
    "wrap": wrap,
    "coil": coil,
    "hoist": hoist,
}

__all__ = ["FAMILIES"]
