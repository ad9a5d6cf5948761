"""Gas in a closed shell: the ideal gas law as pressure on a flex, solved implicitly together with the contacts."""

from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation.mujoco_scenes.flex_points import FlexPoints
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, text

ATMOSPHERE = 101325.0  # Pa


def add_gas(mjcf: Mjcf, name: str, count: int) -> None:
    """Adds the tendon "gas <name>" over all coordinates of the flex `name`, which has `count` points."""
    tendon = Xml.SubElement(mjcf.section("tendon"), "fixed", name=f"gas {name}", stiffness="1")
    for i in range(count):
        for axis in "xyz":
            # `Gas` replaces the coefficient before every step.
            Xml.SubElement(tendon, "joint", joint=f"{name}{axis}{i}", coef=text(1.0))


class Gas:
    """Isothermal ideal gas in the flex `name`: p V = p_atm A, where A is the gas volume at atmospheric pressure.

    The gauge pressure p - p_atm acts on every triangle along its normal. A gas is stiff (1 % of its volume is 1 kPa),
    so that an explicit pressure would need steps of microseconds. To first order in a step the force is (p - p_atm) g -
    (p / V) g g^T dx, where g is the gradient of the volume. This is a spring of stiffness p / V along a tendon with
    coefficients g, and MuJoCo's discrete integrator is implicit in springs.

    name: of the flex.
    amount: m3 at atmospheric pressure, at t = 0.
    rate: m3/s at atmospheric pressure, inflow, negative for outflow.
    until: seconds, end of the inflow.
    """

    def __init__(self, name: str, amount: float, rate: float = 0.0, until: float = np.inf) -> None:
        self.name, self.amount, self.rate, self.until = name, amount, rate, until
        self._of: tuple[mujoco.MjModel, FlexPoints, int] | None = None

    def amount_at(self, time: float) -> float:
        """Amount of gas after `time` seconds, m3 at atmospheric pressure."""
        return self.amount + self.rate * min(time, self.until)

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Sets the tendon's coefficients, stiffness and rest length for the next step."""
        if self._of is None or self._of[0] is not model:
            tendon = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TENDON, f"gas {self.name}")
            self._of = model, FlexPoints(model, self.name), tendon
        _, points, tendon = self._of
        volume, gradient = volume_and_gradient(points, points.position(data))
        pressure = ATMOSPHERE * self.amount_at(data.time) / volume
        stiffness = pressure / volume
        first, number = model.tendon_adr[tendon], model.tendon_num[tendon]
        coefficients = gradient.ravel()
        model.wrap_prm[first : first + number] = coefficients
        length = coefficients @ data.qpos[points.coordinate]
        model.tendon_stiffness[tendon] = stiffness
        model.tendon_lengthspring[tendon] = length + (pressure - ATMOSPHERE) / stiffness


def volume_and_gradient(points: FlexPoints, place: np.ndarray) -> tuple[float, np.ndarray]:
    """Volume in m3 enclosed by a flex with points [N, 3] in metres, and its gradient [N, 3] in m2."""
    a, b, c = (place[corner] for corner in points.triangles.T)
    around = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)]) / 6
    return float((a * around[0]).sum()), points.sum_to_points(around)


def volumes(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Volume in m3 enclosed by triangles [F, 3], for vertices [..., N, 3] in metres."""
    a, b, c = (vertices[..., corner, :] for corner in triangles.T)
    return (a * np.cross(b, c)).sum(axis=(-2, -1)) / 6
