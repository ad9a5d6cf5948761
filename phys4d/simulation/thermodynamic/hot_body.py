"""Rigid scenes with a body hot enough to glow."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.simulation.body import Body
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.rigid.dynamics import simulate_tracks
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.thermodynamic.glow import in_words

AMBIENT = 293.0  # kelvin
STEEL_RGB = (0.33, 0.33, 0.35)
HEAT_CAPACITY = {"steel": 490.0, "graphite": 710.0}  # J/(kg K)
DENSITY = {"graphite": 1800.0}  # kg/m3


@dataclass(frozen=True, kw_only=True)
class HotBodyScene(RigidScene):
    """A rigid scene whose first body is hot; everything else is at AMBIENT.

    temperature: kelvin, of the first body at t = 0.
    """

    temperature: float

    @property
    def category(self) -> str:
        return "thermodynamic"

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; SI units, kelvin."""
        return super().parameters() | {"ambient_temperature": AMBIENT, "initial_temperature": self.temperature}

    def tracks(self, frames: int, fps: float) -> dict[int, Track]:
        """Poses of the bodies by instance. Raises Unstable if the simulator failed."""
        return simulate_tracks(self, frames, fps)


def steel(body: Body, temperature: float) -> dict[str, Any]:
    """Fields of a `Body` to replace so that it is made of steel at this temperature in kelvin."""
    return {"material": "steel", "colour": in_words(temperature), "rgb": STEEL_RGB}


def heat_capacity(body: Body) -> float:
    """Heat capacity of a steel body, J/K."""
    return body.mass * HEAT_CAPACITY["steel"]


def round_kelvin(temperature: float) -> float:
    """Temperature rounded to tens of kelvin, as a caption states it."""
    return float(10 * np.round(temperature / 10))
