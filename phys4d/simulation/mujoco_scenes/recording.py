"""Contacts and velocities of a MuJoCo simulation, recorded while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import mujoco
import numpy as np

_ROW = 10  # impulse on the second thing, normal and place weighted by the normal impulse, that impulse itself


@dataclass(frozen=True)
class Recording:
    """Contacts and velocities of a simulation of T frames.

    time: float64 [C], seconds from the first frame, mean of each contact's impulse.
    instances: uint8 [C, 2], ascending.
    point: float64 [C, 3], world metres, mean of the impulse.
    normal: float64 [C, 3], unit, from the first thing to the second.
    impulse: float64 [C, 3], N s, on the second thing, friction included.
    velocities: instance -> float64 [T, 6], angular velocity in rad/s and that of the geom's centre in m/s, world axes.
    positions: instance -> float64 [T, 3], of the geom's centre, world metres.
    """

    time: np.ndarray
    instances: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    impulse: np.ndarray
    velocities: dict[int, np.ndarray]
    positions: dict[int, np.ndarray]


@dataclass
class Recorder:
    """Records a running simulation; impulses are added up over each frame interval for each pair of instances.

    geoms, flexes: name -> instance; contacts of others, and of an instance with itself, are left out.
    rigid: instance -> name of the geom that it is.
    """

    geoms: Mapping[str, int]
    flexes: Mapping[str, int]
    rigid: Mapping[int, str]
    _numbers: tuple[np.ndarray, np.ndarray] | None = None
    _sums: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    _rows: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    _velocities: dict[int, list[np.ndarray]] = field(default_factory=dict)
    _positions: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def step(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Adds the impulses of the step that MuJoCo has just made."""
        if not data.ncon:
            return
        first, second = self._instances(model, data).T
        force, across = np.zeros(6), model.opt.timestep
        for number in np.nonzero((first != second) & (first > 0) & (second > 0))[0]:
            mujoco.mj_contactForce(model, data, number, force)
            if force[0] <= 0:
                continue
            contact = data.contact[number]
            axes = contact.frame.reshape(3, 3)
            sign = 1.0 if first[number] < second[number] else -1.0
            pair = (min(first[number], second[number]), max(first[number], second[number]))
            weight = force[0] * across
            row = [*(sign * across * force[:3] @ axes), *(sign * weight * axes[0]), *(weight * contact.pos), weight]
            sums = self._sums.setdefault(pair, np.zeros(_ROW + 1))
            sums += [*row, weight * (data.time - across / 2)]

    def frame(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Ends the interval before a frame, of which positions must be computed."""
        self._rows += [(int(first), int(second), sums) for (first, second), sums in sorted(self._sums.items())]
        self._sums = {}
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        for instance, name in self.rigid.items():
            velocity, geom = np.zeros(6), model.geom(name).id
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_GEOM, geom, velocity, 0)
            self._velocities.setdefault(instance, []).append(velocity)
            self._positions.setdefault(instance, []).append(data.geom_xpos[geom].copy())

    def recording(self) -> Recording:
        """What was recorded so far."""
        pairs = np.array([row[:2] for row in self._rows], dtype=np.uint8).reshape(-1, 2)
        sums = np.array([row[2] for row in self._rows]).reshape(-1, _ROW + 1)
        impulse, normal, point, weight, time = np.split(sums, [3, 6, 9, 10], axis=1)
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        return Recording(
            (time / weight)[:, 0], pairs, point / weight, normal / np.maximum(length, 1e-300), impulse,
            {instance: np.array(each) for instance, each in self._velocities.items()},
            {instance: np.array(each) for instance, each in self._positions.items()},
        )  # fmt: skip

    def _instances(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        """Instances of both sides of each contact, int [C, 2]; 0 for none."""
        if self._numbers is None:
            geoms = [self.geoms.get(model.geom(number).name, 0) for number in range(model.ngeom)]
            names = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_FLEX, number) for number in range(model.nflex)]
            # A side that is no geom, or no flex, has the number -1, the last entry.
            self._numbers = np.array([*geoms, 0]), np.array([*(self.flexes.get(name, 0) for name in names), 0])
        geoms_of, flexes_of = self._numbers
        return geoms_of[data.contact.geom] + flexes_of[data.contact.flex]
