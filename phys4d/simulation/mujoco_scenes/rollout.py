"""Runs a MuJoCo model and records its motion; raises Unstable if the simulation fails."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_scenes.recording import Recorder
from phys4d.simulation.scene import Unstable

StepCallback = Callable[[mujoco.MjModel, mujoco.MjData], None]

ENERGY_GAIN_LIMIT = 0.01  # tolerated energy gain, as a share of the largest energy loss in the clip
ENERGY_GAIN_FLOOR = 1e-3  # joules, tolerated energy gain in addition


@dataclass(frozen=True)
class Rollout:
    """Recorded motion of a model over T frames.

    model: the MuJoCo model.
    fps: frames per second.
    geoms: pose of each named geom.
    flexes: vertices of each flex, float64 [T, V, 3], metres.
    energy: float64 [T], joules, potential and kinetic, without the elastic energy of flexes.
    deepest: float64 [T], metres, largest penetration of a contact in each frame.
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

    def until(self, frames: int) -> "Rollout":
        """Its first frames."""
        geoms = {name: Track(t.position[:frames], t.quaternion[:frames]) for name, t in self.geoms.items()}
        flexes = {name: vertices[:frames] for name, vertices in self.flexes.items()}
        return replace(self, geoms=geoms, flexes=flexes, energy=self.energy[:frames], deepest=self.deepest[:frames])


def run_model(
    text: str,
    frames: int,
    fps: float,
    *,
    steps_per_second: int,
    start: StepCallback | None = None,
    before_step: StepCallback | None = None,
    recorder: Recorder | None = None,
) -> Rollout:
    """Runs an MJCF model for `frames` frames from t = 0.

    text: MJCF.
    fps: frames per second.
    steps_per_second: at least this many; a frame is a whole number of equal steps.
    start: called once before the first step; sets initial positions and velocities.
    before_step: called before every step.
    recorder: of contacts and velocities.

    Raises Unstable if MuJoCo warns or the state is not finite.
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
                _advance(model, data, steps, before_step, recorder)
            if recorder is not None:
                recorder.frame(model, data)
            check_warnings(data, warnings)
            geoms[frame] = _poses(data)
            flexes[frame] = np.reshape(data.flexvert_xpos, (-1, 3))
            energy[frame] = data.energy.sum()
            deepest[frame] = max(-data.contact.dist.min(initial=0.0), 0.0)
    finally:
        mujoco.set_mju_user_warning(None)
    return Rollout(
        model,
        fps,
        {name: Track(geoms[:, number, :3].copy(), geoms[:, number, 3:].copy()) for name, number in names.items()},
        _flexes_by_name(model, flexes),
        energy,
        deepest,
    )


def in_sequence(*starts: StepCallback) -> StepCallback:
    """Callback that calls all `starts` in order."""

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for each in starts:
            each(model, data)

    return start


def advance(
    model: mujoco.MjModel, data: mujoco.MjData, steps: int, before_step: StepCallback | None,
    recorder: Recorder | None = None,
) -> None:  # fmt: skip
    """Advances by `steps` steps, with a call of `before_step` before each, and of the recorder after it."""
    if before_step is None and recorder is None:
        mujoco.mj_step(model, data, steps)
        return
    for _ in range(steps):
        if before_step is not None:
            before_step(model, data)
        mujoco.mj_step(model, data)
        if recorder is not None:
            recorder.step(model, data)


def _advance(
    model: mujoco.MjModel, data: mujoco.MjData, steps: int, before_step: StepCallback | None,
    recorder: Recorder | None,
) -> None:  # fmt: skip
    advance(model, data, steps, before_step, recorder)
    # mj_step leaves derived positions and inertia as they were before its last integration.
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_makeM(model, data)
    if model.nflex:
        mujoco.mj_flex(model, data)
    mujoco.mj_energyPos(model, data)
    mujoco.mj_energyVel(model, data)


def check_warnings(data: mujoco.MjData, warnings: list[str]) -> None:
    """Raises Unstable if MuJoCo has warned or the state is not finite."""
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


def check_energy(energy: np.ndarray) -> None:
    """Raises Unstable if the energy [T] in joules of a closed system grows above its initial value."""
    turned_over = energy[0] - energy.min()
    if energy.max() > energy[0] + ENERGY_GAIN_LIMIT * turned_over + ENERGY_GAIN_FLOOR:
        raise Unstable("energy grows")
