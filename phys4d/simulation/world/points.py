"""Where the points of a flex are between two steps, and the forces on them."""

import mujoco
import numpy as np


class Points:
    """The points of the flex `name` of a model, as `flex.add_flex` makes them: position and velocity, and forces."""

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        flex = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, name)
        first, count = model.flex_vertadr[flex], model.flex_vertnum[flex]
        body = model.flex_vertbodyid[first : first + count]
        self.free = np.flatnonzero(body)
        # Three slide joints in a row: one degree of freedom and one coordinate each.
        self.dof = (model.body_dofadr[body[self.free]][:, None] + np.arange(3)).ravel()
        self._coordinate = (model.jnt_qposadr[model.body_jntadr[body[self.free]]][:, None] + np.arange(3)).ravel()
        self._rest = model.body_pos[body] + model.flex_vert[first : first + count]
        triangles = model.flex_elem if model.flex_dim[flex] == 2 else model.flex_shell
        start = model.flex_elemdataadr[flex] if model.flex_dim[flex] == 2 else model.flex_shelldataadr[flex]
        number = model.flex_elemnum[flex] if model.flex_dim[flex] == 2 else model.flex_shellnum[flex]
        self.triangles = triangles[start : start + 3 * number].reshape(-1, 3).copy()
        self._corner = self.triangles.T.ravel()

    def position(self, data: mujoco.MjData) -> np.ndarray:
        """World metres [N, 3], as of now (flexvert_xpos is a step old)."""
        place = self._rest.copy()
        place[self.free] += data.qpos[self._coordinate].reshape(-1, 3)
        return place

    def velocity(self, data: mujoco.MjData) -> np.ndarray:
        """m/s [N, 3]."""
        velocity = np.zeros_like(self._rest)
        velocity[self.free] = data.qvel[self.dof].reshape(-1, 3)
        return velocity

    def gather(self, corners: np.ndarray) -> np.ndarray:
        """Sum [N, 3] at each point of what the triangles' corners [3, F, 3] get."""
        flat = corners.reshape(-1, 3)
        return np.stack([np.bincount(self._corner, flat[:, k], len(self._rest)) for k in range(3)], axis=1)

    def push(self, data: mujoco.MjData, force: np.ndarray) -> None:
        """Applies forces [N, 3] in N during the next step, in place of the last one's."""
        data.qfrc_applied[self.dof] = force[self.free].ravel()
