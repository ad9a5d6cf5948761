"""Families of scenes: each draws a scene from a generator; a new family is one file and one line here."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.families.collision import collision
from phys4d.simulation.families.dominoes import dominoes
from phys4d.simulation.families.fall import fall
from phys4d.simulation.families.pendulum import pendulum
from phys4d.simulation.families.ramp import ramp
from phys4d.simulation.families.spin import spin
from phys4d.simulation.families.topple import topple
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "fall": fall,
    "collision": collision,
    "ramp": ramp,
    "topple": topple,
    "dominoes": dominoes,
    "pendulum": pendulum,
    "spin": spin,
}

__all__ = ["FAMILIES"]
