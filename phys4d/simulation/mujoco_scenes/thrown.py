"""Initial velocities of things that are not rigid: the same for all their points, so that nothing is strained."""

import mujoco
import numpy as np

from phys4d.simulation.mujoco_scenes.flex_points import FlexPoints
from phys4d.simulation.mujoco_scenes.rollout import StepCallback


def thrown_flex(name: str, velocity: np.ndarray) -> StepCallback:
    """Callback that sets the velocity of all free points of the flex `name`; velocity: [3], world m/s."""

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        data.qvel[FlexPoints(model, name).dof.reshape(-1, 3)] = velocity

    return start


def thrown_chain(first: str, velocity: np.ndarray) -> StepCallback:
    """Callback that sets the velocity of a chain whose first body, `first`, has a free joint; velocity: [3], world m/s.
    """

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        dof = int(model.body(first).dofadr[0])
        data.qvel[dof : dof + 3] = velocity

    return start
