"""Bodies on holders in MuJoCo: at rest until they are let go."""

from collections.abc import Mapping

import mujoco
import numpy as np

from phys4d.simulation.scene import Unusable


class Holding:
    """Called before every step: keeps bodies exactly at rest until they are let go.

    The bodies' MJCF has gravcomp="1", so that no force acts on them while they are held.

    until: seconds by name of the body, which has a free joint.
    """

    def __init__(self, until: Mapping[str, float]) -> None:
        self.until = dict(until)
        self._of: tuple[mujoco.MjModel, list[_Held]] | None = None

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Raises Unusable if something touches a body that is held."""
        if self._of is None or self._of[0] is not model:
            self._of = model, [_Held(model, data, name, time) for name, time in self.until.items()]
        for held in self._of[1]:
            held.before_step(model, data)


class _Held:
    """One body, its coordinates and the time at which it is let go."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, name: str, until: float) -> None:
        self.body, self.until = model.body(name).id, until
        joint = model.body_jntadr[self.body]
        self.place = slice(model.jnt_qposadr[joint], model.jnt_qposadr[joint] + 7)
        self.velocity = slice(model.jnt_dofadr[joint], model.jnt_dofadr[joint] + 6)
        self.geoms = np.flatnonzero(model.geom_bodyid == self.body)
        self.pose = data.qpos[self.place].copy()

    def before_step(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if data.time > self.until - model.opt.timestep / 2:
            model.body_gravcomp[self.body] = 0.0
            return
        if data.ncon and np.isin(data.contact.geom, self.geoms).any():
            raise Unusable("a held body is touched")
        data.qpos[self.place], data.qvel[self.velocity] = self.pose, 0.0
