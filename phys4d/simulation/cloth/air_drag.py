"""Air drag on a cloth at rest air or in a wind."""

import mujoco
import numpy as np

from phys4d.simulation.mujoco_scenes.flex_points import FlexPoints

DENSITY = 1.2  # kg/m3
DRAG = 1.2  # coefficient of a plate across the flow


class AirDrag:
    """Air of uniform velocity around a flex; a callback before every step.

    The force on each triangle is the pressure drag of a plate, rho / 2 C |u| (u . n) n per area, where u is the air's
    velocity relative to the triangle. Friction along the cloth and the reaction on the air are neglected.

    wind: [3], m/s, world.
    flex: its name.
    coefficient: C. On a closed ball the sum over its skin is 4/3 C for each cross-section.
    """

    def __init__(
        self, wind: tuple[float, float, float] = (0.0, 0.0, 0.0), *, flex: str = "cloth", coefficient: float = DRAG
    ) -> None:
        self.wind, self.flex, self.coefficient = np.array(wind), flex, coefficient
        self._points: tuple[mujoco.MjModel, FlexPoints] | None = None

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if self._points is None or self._points[0] is not model:
            self._points = model, FlexPoints(model, self.flex)
        points = self._points[1]
        place, velocity = points.position(data), points.velocity(data)
        a, b, c = points.triangles.T
        area = np.cross(place[b] - place[a], place[c] - place[a]) / 2
        flow = self.wind - (velocity[a] + velocity[b] + velocity[c]) / 3
        size = np.maximum(np.linalg.norm(area, axis=1), 1e-12)
        pressure = DENSITY / 2 * self.coefficient * np.linalg.norm(flow, axis=1) * (flow * area).sum(axis=1) / size
        force = pressure[:, None] * area / 3
        points.apply_forces(data, points.sum_to_points(np.broadcast_to(force, (3, *force.shape))))
