"""Rigid bodies: families of scenes; each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.rigid.collision import collision
from phys4d.simulation.rigid.dominoes import dominoes
from phys4d.simulation.rigid.fall import fall
from phys4d.simulation.rigid.pendulum import pendulum
from phys4d.simulation.rigid.ramp import ramp
from phys4d.simulation.rigid.spin import spin
from phys4d.simulation.rigid.topple import topple
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
