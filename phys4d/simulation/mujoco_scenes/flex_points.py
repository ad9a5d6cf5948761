"""Positions and velocities of the points of a flex between two steps, and forces on them."""

import mujoco
import numpy as np


class FlexPoints:
    """The points of the flex `name`, as `flex.add_flex` makes it: position, velocity and applied forces."""

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        flex = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, name)
        first, count = model.flex_vertadr[flex], model.flex_vertnum[flex]
        body = model.flex_vertbodyid[first : first + count]
        self.free = np.flatnonzero(body)
        # Three slide joints in a row: one degree of freedom and one coordinate each.
        self.dof = (model.body_dofadr[body[self.free]][:, None] + np.arange(3)).ravel()
        self.coordinate = (model.jnt_qposadr[model.body_jntadr[body[self.free]]][:, None] + np.arange(3)).ravel()
        self._rest = model.body_pos[body] + model.flex_vert[first : first + count]
        triangles = model.flex_elem if model.flex_dim[flex] == 2 else model.flex_shell
        start = model.flex_elemdataadr[flex] if model.flex_dim[flex] == 2 else model.flex_shelldataadr[flex]
        number = model.flex_elemnum[flex] if model.flex_dim[flex] == 2 else model.flex_shellnum[flex]
        self.triangles = triangles[start : start + 3 * number].reshape(-1, 3).copy()
        self._corner = self.triangles.T.ravel()

    def position(self, data: mujoco.MjData) -> np.ndarray:
        """World metres [N, 3] at the current state (MuJoCo's flexvert_xpos is one step old)."""
        place = self._rest.copy()
        place[self.free] += data.qpos[self.coordinate].reshape(-1, 3)
        return place

    def velocity(self, data: mujoco.MjData) -> np.ndarray:
        """m/s [N, 3]."""
        velocity = np.zeros_like(self._rest)
        velocity[self.free] = data.qvel[self.dof].reshape(-1, 3)
        return velocity

    def sum_to_points(self, corners: np.ndarray) -> np.ndarray:
        """Sums values at the triangles' corners, [3, F, 3], at each point: [N, 3]."""
        flat = corners.reshape(-1, 3)
        return np.stack([np.bincount(self._corner, flat[:, k], len(self._rest)) for k in range(3)], axis=1)

    def apply_forces(self, data: mujoco.MjData, force: np.ndarray) -> None:
        """Applies forces [N, 3] in N during the next step; replaces those of the last step."""
        data.qfrc_applied[self.dof] = force[self.free].ravel()
