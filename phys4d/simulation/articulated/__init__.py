"""Bodies joined by hinges (machines, furniture, figures); each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.articulated.cabinet import cabinet
from phys4d.simulation.articulated.crank import crank
from phys4d.simulation.articulated.double_pendulum import double_pendulum
from phys4d.simulation.articulated.figure import figure
from phys4d.simulation.articulated.seesaw import seesaw
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "double_pendulum": double_pendulum,
    "cabinet": cabinet,
    "seesaw": seesaw,
    "figure": figure,
    "crank": crank,
}

__all__ = ["FAMILIES"]
