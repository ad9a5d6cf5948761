"""Granular matter (hundreds of small balls that heap, slide and pour); each family is a function that samples a scene.
"""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.granular.chute import chute
from phys4d.simulation.granular.column import column
from phys4d.simulation.granular.plough import plough
from phys4d.simulation.granular.plunge import plunge
from phys4d.simulation.granular.shower import shower
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "column": column,
    "chute": chute,
    "shower": shower,
    "plough": plough,
    "plunge": plunge,
}

__all__ = ["FAMILIES"]
