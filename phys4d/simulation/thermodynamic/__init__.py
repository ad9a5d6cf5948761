"""Heat: conduction, melting, glow and smoke; each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.scene import Scene
from phys4d.simulation.thermodynamic.glowing_pendulum import glowing_pendulum
from phys4d.simulation.thermodynamic.hot_ball import hot_ball
from phys4d.simulation.thermodynamic.hot_bar import hot_bar
from phys4d.simulation.thermodynamic.melting_on_plate import melting_on_plate
from phys4d.simulation.thermodynamic.melting_on_ramp import melting_on_ramp
from phys4d.simulation.thermodynamic.smoke import smoke

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "melting_on_plate": melting_on_plate,
    "melting_on_ramp": melting_on_ramp,
    "hot_ball": hot_ball,
    "hot_bar": hot_bar,
    "glowing_pendulum": glowing_pendulum,
    "smoke": smoke,
}

__all__ = ["FAMILIES"]
