"""Gas in a closed shell: the ideal gas law as the pressure on a flex, solved together with everything else."""

from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation.world.mjcf import Mjcf, text
from phys4d.simulation.world.points import Points

ATMOSPHERE = 101325.0  # Pa


def add_gas(mjcf: Mjcf, name: str, count: int) -> None:
    """Adds the tendon "gas `name`" over all coordinates of the flex `name`, which has `count` points."""
    tendon = Xml.SubElement(mjcf.section("tendon"), "fixed", name=f"gas {name}", stiffness="1")
    for i in range(count):
        for axis in "xyz":
            # A place keeper: `Gas` says before every step what it is.
            Xml.SubElement(tendon, "joint", joint=f"{name}{axis}{i}", coef=text(1.0))


class Gas:
    """Gas at a constant temperature in the flex `name`: p V = p_atm A, with A what it would fill in the open, in m3.

    Its pressure p - p_atm pushes every triangle along its normal. Air is stiff (a hundredth of its volume is 1 kPa), so
    that an explicit pressure would need steps of microseconds. To first order in a step it is the force
    (p - p_atm) g - (p / V) g g^T dx, with g the gradient of the volume: that of a spring of stiffness p / V along a
    tendon with coefficients g, and MuJoCo's discrete integrator is implicit in springs.

    amount: m3 of air at first; rate: m3/s that come in from then on, or leave where negative, `until` seconds.
    """

    def __init__(self, name: str, amount: float, rate: float = 0.0, until: float = np.inf) -> None:
        self.name, self.amount, self.rate, self.until = name, amount, rate, until
        self._of: tuple[mujoco.MjModel, Points, int] | None = None

    def amount_at(self, time: float) -> float:
        """Air inside after `time` seconds, m3 in the open."""
        return self.amount + self.rate * min(time, self.until)

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Prepares the next step."""
        if self._of is None or self._of[0] is not model:
            tendon = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TENDON, f"gas {self.name}")
            self._of = model, Points(model, self.name), tendon
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


def volume_and_gradient(points: Points, place: np.ndarray) -> tuple[float, np.ndarray]:
    """Volume in m3 inside the flex with its points at [N, 3], and its gradient [N, 3] in m2."""
    a, b, c = (place[corner] for corner in points.triangles.T)
    around = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)]) / 6
    return float((a * around[0]).sum()), points.gather(around)


def volumes(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Volume in m3 inside closed triangles, for vertices [..., N, 3]."""
    a, b, c = (vertices[..., corner, :] for corner in triangles.T)
    return (a * np.cross(b, c)).sum(axis=(-2, -1)) / 6
