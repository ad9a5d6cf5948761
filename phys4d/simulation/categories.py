"""The kinds of physics, and the families of scenes of each: a new family is one file and one line in its category."""

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
