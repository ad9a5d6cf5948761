"""The categories of physics and their families of scenes.

To add a family: write one file in the category's folder and add one line to the category's FAMILIES.
"""

from collections.abc import Callable, Mapping

import numpy as np

from phys4d.simulation import (
    articulated,
    cloth,
    deformable,
    fluid,
    granular,
    inflatable,
    rigid,
    rope,
    thermodynamic,
)
from phys4d.simulation.scene import Scene

Family = Callable[[np.random.Generator], Scene]

CATEGORIES: dict[str, Mapping[str, Family]] = {
    "rigid": rigid.FAMILIES,
    "articulated": articulated.FAMILIES,
    "rope": rope.FAMILIES,
    "cloth": cloth.FAMILIES,
    "deformable": deformable.FAMILIES,
    "inflatable": inflatable.FAMILIES,
    "granular": granular.FAMILIES,
    "fluid": fluid.FAMILIES,
    "thermodynamic": thermodynamic.FAMILIES,
}

FAMILIES: dict[str, Family] = {name: draw for families in CATEGORIES.values() for name, draw in families.items()}
