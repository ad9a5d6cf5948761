"""Rigid scenes with a body hot enough to glow."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Body
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.rigid.dynamics import simulate_tracks
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.thermodynamic.glow import in_words

AMBIENT = 293.0  # kelvin
STEEL_RGB = (0.33, 0.33, 0.35)
HEAT_CAPACITY = {"steel": 490.0, "graphite": 710.0}  # J/(kg K)
DENSITY = {"graphite": 1800.0}  # kg/m3
EMISSIVITY, STEFAN_BOLTZMANN = 0.8, 5.670374e-8  # of oxidised steel; W/(m2 K4)


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


def radiation_rate(body: Body, temperature: float) -> float:
    """Rate in 1/s at which a steel body at this temperature in kelvin loses its excess over AMBIENT by radiation."""
    vertices, faces = shapes.mesh(body.shape, body.size, 3)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2
    watts = EMISSIVITY * STEFAN_BOLTZMANN * area * (temperature**4 - AMBIENT**4)
    return watts / heat_capacity(body) / (temperature - AMBIENT)


def round_kelvin(temperature: float) -> float:
    """Temperature rounded to tens of kelvin, as a caption states it."""
    return float(10 * np.round(temperature / 10))
