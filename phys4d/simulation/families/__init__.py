"""Families of scenes: each draws a scene from a generator; a new family is one file and one line here."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.families.collision import collision
from phys4d.simulation.families.fall import fall
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {"fall": fall, "collision": collision}

__all__ = ["FAMILIES", "collision", "fall"]
