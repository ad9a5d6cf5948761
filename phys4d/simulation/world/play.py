"""Runs a MuJoCo model and keeps what the truth needs; whatever looks wrong on the way is Unstable."""

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.scene import Unstable

Drive = Callable[[mujoco.MjModel, mujoco.MjData], None]

SLACK = 0.01  # share of the energy turned over that may be gained by rounding
ENOUGH = 1e-3  # joules


@dataclass(frozen=True)
class Play:
    """What happened. geoms: pose of each named geom. flexes: vertices of each flex, float64 [T, V, 3] metres.

    energy: float64 [T] joules, potential and kinetic (without what flexes store). deepest: float64 [T] metres, how
    deep the deepest contact of each frame is.
    """

    model: mujoco.MjModel
    fps: float
    geoms: dict[str, Track]
    flexes: dict[str, np.ndarray]
    energy: np.ndarray
    deepest: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.energy)


def play(
    text: str, frames: int, fps: float, *, steps_per_second: int, start: Drive | None = None, drive: Drive | None = None
) -> Play:
    """Runs the model for `frames` frames from t = 0.

    steps_per_second: at least; a frame is a whole number of equal steps. start: sets the first velocities. drive: is
    called before every step. Raises Unstable when MuJoCo warns or the state is not finite.
    """
    model = mujoco.MjModel.from_xml_string(text)
    steps = -int(-steps_per_second // fps)
    model.opt.timestep = 1 / (fps * steps)
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    data = mujoco.MjData(model)
    if start is not None:
        start(model, data)
    names = {model.geom(number).name: number for number in range(model.ngeom) if model.geom(number).name}
    geoms = np.empty((frames, model.ngeom, 7))
    flexes = np.empty((frames, model.nflexvert, 3))
    energy, deepest = np.empty(frames), np.zeros(frames)
    warnings: list[str] = []
    # Without a handler MuJoCo writes a log file into the working directory.
    mujoco.set_mju_user_warning(warnings.append)
    try:
        mujoco.mj_forward(model, data)
        for frame in range(frames):
            if frame:
                _advance(model, data, steps, drive)
            refuse_warnings(data, warnings)
            geoms[frame] = _poses(data)
            flexes[frame] = np.reshape(data.flexvert_xpos, (-1, 3))
            energy[frame] = data.energy.sum()
            deepest[frame] = max(-data.contact.dist.min(initial=0.0), 0.0)
    finally:
        mujoco.set_mju_user_warning(None)
    return Play(
        model,
        fps,
        {name: Track(geoms[:, number, :3].copy(), geoms[:, number, 3:].copy()) for name, number in names.items()},
        _flexes_by_name(model, flexes),
        energy,
        deepest,
    )


def _advance(model: mujoco.MjModel, data: mujoco.MjData, steps: int, drive: Drive | None) -> None:
    if drive is None:
        mujoco.mj_step(model, data, steps)
    else:
        for _ in range(steps):
            drive(model, data)
            mujoco.mj_step(model, data)
    # mj_step leaves places and inertia as they were before its last integration.
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_makeM(model, data)
    if model.nflex:
        mujoco.mj_flex(model, data)
    mujoco.mj_energyPos(model, data)
    mujoco.mj_energyVel(model, data)


def refuse_warnings(data: mujoco.MjData, warnings: list[str]) -> None:
    """Raises Unstable when MuJoCo has warned or the state is not finite."""
    if data.warning.number.any() or warnings:
        raised = [mujoco.mjtWarning(i).name.removeprefix("mjWARN_").lower() for i in np.nonzero(data.warning.number)[0]]
        raise Unstable(f"MuJoCo warned: {' '.join(raised or ['(other)'])}")
    if not (np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all()):
        raise Unstable("state is not finite")


def _poses(data: mujoco.MjData) -> np.ndarray:
    """Position and quaternion of every geom, float64 [G, 7]."""
    poses = np.empty((len(data.geom_xpos), 7))
    poses[:, :3] = data.geom_xpos
    for number, matrix in enumerate(data.geom_xmat):
        mujoco.mju_mat2Quat(poses[number, 3:], matrix)
    return poses


def _flexes_by_name(model: mujoco.MjModel, vertices: np.ndarray) -> dict[str, np.ndarray]:
    first, count = model.flex_vertadr, model.flex_vertnum
    return {
        mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_FLEX, number): vertices[:, first[number] :][:, : count[number]]
        for number in range(model.nflex)
    }


def refuse_gain(energy: np.ndarray) -> None:
    """Raises Unstable when a closed system's energy [T] in joules grows above what it had at first."""
    turned_over = energy[0] - energy.min()
    if energy.max() > energy[0] + SLACK * turned_over + ENOUGH:
        raise Unstable("energy grows")
