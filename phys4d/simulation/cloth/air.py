"""Air around a cloth: it resists, and as wind it pushes."""

import mujoco
import numpy as np

from phys4d.simulation.world.points import Points

DENSITY = 1.2  # kg/m3
DRAG = 1.2  # coefficient of a plate across the flow


class Air:
    """Air of one velocity (world m/s) around the flex "cloth", called before every step.

    Every triangle feels the pressure of a plate in a flow: rho / 2 C |u| (u . n) n per area, u the air's velocity
    relative to it. Friction along the cloth, and the cloth's own effect on the air, are left out.
    """

    def __init__(self, wind: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.wind = np.array(wind)
        self._points: tuple[mujoco.MjModel, Points] | None = None

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if self._points is None or self._points[0] is not model:
            self._points = model, Points(model, "cloth")
        points = self._points[1]
        place, velocity = points.position(data), points.velocity(data)
        a, b, c = points.triangles.T
        area = np.cross(place[b] - place[a], place[c] - place[a]) / 2
        flow = self.wind - (velocity[a] + velocity[b] + velocity[c]) / 3
        size = np.maximum(np.linalg.norm(area, axis=1), 1e-12)
        pressure = DENSITY / 2 * DRAG * np.linalg.norm(flow, axis=1) * (flow * area).sum(axis=1) / size
        force = pressure[:, None] * area / 3
        points.push(data, points.gather(np.broadcast_to(force, (3, *force.shape))))
