"""Heaps and beds of grains that lie still at first: they have settled before the clip begins."""

from collections.abc import Callable

import mujoco
import numpy as np

from phys4d.simulation.granular.grains import STEPS_PER_SECOND
from phys4d.simulation.world.play import Drive

SETTLING = 0.35  # s
SLOWED = 0.98  # share of its speed that a grain keeps in a step, so that none is thrown about


def settled(others: Drive | None = None) -> Drive:
    """Lets the grains settle under gravity, stops them, and then starts everything else with `others`.

    What is not a grain, the free joints that have a name, stays where it is. Settling takes equal steps for any frame
    rate and is done once for a scene.
    """
    known: list[np.ndarray] = []

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if not known:
            known.append(_settle(model))
        data.qpos[:] = known[0]
        if others is not None:
            others(model, data)

    return start


def _settle(model: mujoco.MjModel) -> np.ndarray:
    """Places of all joints after the grains have come to rest."""
    data = mujoco.MjData(model)
    joints = [model.joint(number) for number in range(model.njnt) if model.joint(number).name]
    places = np.concatenate([joint.qposadr[0] + np.arange(7) for joint in joints])
    speeds = np.concatenate([joint.dofadr[0] + np.arange(6) for joint in joints])
    first, timestep = data.qpos[places].copy(), model.opt.timestep
    model.opt.timestep = 1 / STEPS_PER_SECOND
    for _ in range(round(SETTLING * STEPS_PER_SECOND)):
        mujoco.mj_step(model, data)
        data.qpos[places], data.qvel[speeds] = first, 0
        data.qvel *= SLOWED
    model.opt.timestep = timestep
    return data.qpos.copy()


def trimmed(places: np.ndarray, random: np.random.Generator, inside: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The places [N, 3] that are inside a region, a few left out, so that the grains do not lie like a crystal."""
    places = places[inside(places)]
    return places[random.uniform(size=len(places)) < 0.95]
