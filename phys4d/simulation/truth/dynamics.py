"""Contacts and velocities as arrays of a clip, from the simulator's own record."""

from collections.abc import Collection

import numpy as np

from phys4d.simulation.mujoco_scenes.recording import Recording


def contacts(recording: Recording) -> dict[str, np.ndarray]:
    """One row for each pair of things that touch within a frame interval, in the order of intervals and pairs.

    recording: of the clip.

    Returns arrays as `engine.data.clip.extras.EXTRAS` defines them, C rows: `contact_time` float64 [C],
    `contact_instance` uint8 [C, 2], and `contact_point`, `contact_normal`, `contact_impulse` float32 [C, 3].
    """
    return {
        "contact_time": recording.time,
        "contact_instance": recording.instances,
        "contact_point": recording.point.astype(np.float32),
        "contact_normal": recording.normal.astype(np.float32),
        "contact_impulse": recording.impulse.astype(np.float32),
    }


def velocities(recording: Recording, instances: Collection[int]) -> dict[str, np.ndarray]:
    """The velocity of each rigid thing in each frame, as the simulator has it.

    recording: of the clip.
    instances: those with a pose, K of them.

    Returns `velocity_instance` uint8 [K], `linear_velocity` and `angular_velocity` float32 [T, K, 3].
    """
    names = sorted(recording.velocities.keys() & instances)
    every = np.stack([recording.velocities[name] for name in names], axis=1) if names else np.zeros((0, 0, 6))
    return {
        "velocity_instance": np.array(names, dtype=np.uint8),
        "linear_velocity": every[..., 3:].astype(np.float32),
        "angular_velocity": every[..., :3].astype(np.float32),
    }
