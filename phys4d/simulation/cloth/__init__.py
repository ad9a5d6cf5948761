"""Cloth; each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.cloth.ball_impact import billow, hammock
from phys4d.simulation.cloth.cover import cover
from phys4d.simulation.cloth.crumple import crumple
from phys4d.simulation.cloth.sway import sway
from phys4d.simulation.cloth.wind import curtain, flag
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "cover": cover,
    "crumple": crumple,
    "hammock": hammock,
    "billow": billow,
    "sway": sway,
    "flag": flag,
    "curtain": curtain,
}

__all__ = ["FAMILIES"]
