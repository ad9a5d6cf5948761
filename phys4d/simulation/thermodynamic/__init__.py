"""Heat in matter: families of scenes, each a function that draws one from a generator."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.scene import Scene
from phys4d.simulation.thermodynamic.smoke import smoke

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "smoke": smoke,
}

__all__ = ["FAMILIES"]
