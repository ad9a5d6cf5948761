"""Inflatables; each family is a function that samples a scene."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.inflatable.bouncing import air_ball, cushion
from phys4d.simulation.inflatable.inflation import deflate, lift, push_apart
from phys4d.simulation.scene import Scene

FAMILIES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "air_ball": air_ball,
    "cushion": cushion,
    "lift": lift,
    "push_apart": push_apart,
    "deflate": deflate,
}

__all__ = ["FAMILIES"]
