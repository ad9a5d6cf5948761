"""Liquids; each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.fluid.channel import channel
from phys4d.simulation.fluid.dam_break import dam_break
from phys4d.simulation.fluid.liquid_fall import liquid_fall
from phys4d.simulation.fluid.slosh import slosh
from phys4d.simulation.fluid.thick_fall import thick_fall
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "dam_break": dam_break,
    "liquid_fall": liquid_fall,
    "thick_fall": thick_fall,
    "channel": channel,
    "slosh": slosh,
}

__all__ = ["FAMILIES"]
