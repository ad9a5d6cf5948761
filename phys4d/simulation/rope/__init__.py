"""Ropes: they fall, hang, swing and catch on things."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.rope.coil import coil
from phys4d.simulation.rope.drape import drape
from phys4d.simulation.rope.hoist import hoist
from phys4d.simulation.rope.release import release
from phys4d.simulation.rope.wrap import wrap
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "drape": drape,
    "release": release,
    "wrap": wrap,
    "coil": coil,
    "hoist": hoist,
}

__all__ = ["FAMILIES"]
