"""Cloth: families of scenes, each a function that draws one from a generator."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.cloth.drape import drape
from phys4d.simulation.cloth.sway import sway
from phys4d.simulation.cloth.wind import curtain, flag
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "drape": drape,
    "sway": sway,
    "flag": flag,
    "curtain": curtain,
}

__all__ = ["FAMILIES"]
