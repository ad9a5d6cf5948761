"""Rigid scenes with a body hot enough to glow."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.simulation.body import Body
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.rigid.dynamics import motion
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.thermodynamic.glow import in_words

AMBIENT = 293.0  # kelvin
STEEL_RGB = (0.33, 0.33, 0.35)
HEAT_CAPACITY = {"steel": 490.0, "graphite": 710.0}  # J/(kg K)
DENSITY = {"graphite": 1800.0}  # kg/m3


@dataclass(frozen=True, kw_only=True)
class HotBodyScene(RigidScene):
    """The first body starts at `temperature`, in kelvin; everything else at AMBIENT."""

    temperature: float

    @property
    def category(self) -> str:
        return "thermodynamic"

    def parameters(self) -> dict[str, Any]:
        """Of the scene as a whole; SI units, kelvin."""
        return super().parameters() | {"ambient_temperature": AMBIENT, "initial_temperature": self.temperature}

    def tracks(self, frames: int, fps: float) -> dict[int, Track]:
        """The bodies' poses by instance. Raises Unstable."""
        return motion(self, frames, fps)


def steel(body: Body, temperature: float) -> dict[str, Any]:
    """What changes of a body that is made of steel this hot: its make, and the word for its colour."""
    return {"material": "steel", "colour": in_words(temperature), "rgb": STEEL_RGB}


def heat_capacity(body: Body) -> float:
    """J/K of a steel body."""
    return body.mass * HEAT_CAPACITY["steel"]


def round_kelvin(temperature: float) -> float:
    """As a caption states it: to whole tens."""
    return float(10 * np.round(temperature / 10))
