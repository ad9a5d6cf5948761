"""Settling of heaps and beds of grains before the clip begins."""

from collections.abc import Callable

import mujoco
import numpy as np

from phys4d.simulation.granular.grains import STEPS_PER_SECOND
from phys4d.simulation.mujoco_scenes.rollout import StepCallback

SLOWED = 0.98  # factor on every grain's velocity in each step, which damps the motion


def settle_before(seconds: float, others: StepCallback | None = None) -> StepCallback:
    """Callback that lets grains settle under gravity, stops them, and then calls `others`.

    Named free joints (bodies that are not grains) stay in place. Settling takes equal steps for any frame rate and is
    computed once for a scene, also where its model has more named joints later on, those of held bodies.

    seconds: duration of the settling.
    others: sets the initial state of other bodies.
    """
    known: list[np.ndarray] = []

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if not known:
            known.append(_settle(model, seconds))
        data.qpos[_coordinates(model, named=False)] = known[0]
        if others is not None:
            others(model, data)

    return start


def _settle(model: mujoco.MjModel, seconds: float) -> np.ndarray:
    """Coordinates of the grains after they have settled, those of one after the other."""
    data = mujoco.MjData(model)
    joints = [model.joint(number) for number in range(model.njnt) if model.joint(number).name]
    places = _coordinates(model, named=True)
    speeds = np.concatenate([np.zeros(0, dtype=int), *(joint.dofadr[0] + np.arange(6) for joint in joints)])
    first, timestep = data.qpos[places].copy(), model.opt.timestep
    model.opt.timestep = 1 / STEPS_PER_SECOND
    for _ in range(round(seconds * STEPS_PER_SECOND)):
        mujoco.mj_step(model, data)
        data.qpos[places], data.qvel[speeds] = first, 0
        data.qvel *= SLOWED
    model.opt.timestep = timestep
    return data.qpos[_coordinates(model, named=False)].copy()


def _coordinates(model: mujoco.MjModel, *, named: bool) -> np.ndarray:
    """Numbers of the coordinates of the free joints with a name, or of those without one, which are the grains'."""
    joints = [model.joint(number) for number in range(model.njnt)]
    some = [joint.qposadr[0] + np.arange(7) for joint in joints if bool(joint.name) == named]
    return np.concatenate([np.zeros(0, dtype=int), *some])


def sample_inside(
    places: np.ndarray, rng: np.random.Generator, inside: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The positions [N, 3] inside a region, with 5 % left out at random, so that the packing is not a crystal.

    places: [N, 3], metres.
    rng: samples the gaps.
    inside: positions [N, 3] -> bool [N].
    """
    places = places[inside(places)]
    return places[rng.uniform(size=len(places)) < 0.95]
