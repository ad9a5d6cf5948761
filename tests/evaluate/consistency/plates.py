"""Clips that are known in closed form: square plates that move in a plane before a wall, with the truth of both."""

from typing import Any

import numpy as np

FRAMES, SIZE, FOCAL, FPS, GRAVITY = 13, 48, 48.0, 24.0, 9.81
HALF, NEAR, FAR = 0.26, 2.0, 4.0  # metres: half a plate's side, distance of the plates and of the wall
INTRINSICS = [[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]
POSE = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1], [0, 0, 0, 1]]  # at (0, 0, 1), looks along y, z is up


def falling() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and json of a clip in which a plate falls from rest at 1.7 m."""
    time = np.arange(FRAMES) / FPS
    return clip([np.stack([0 * time, 0 * time + NEAR, 1.7 - GRAVITY / 2 * time**2], axis=1)], [2.0])


def colliding() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The same of a plate of 1 kg that stops in frame 6, at 2 m/s, where one of 2 kg begins to move at 1 m/s."""
    frame = np.arange(FRAMES)
    x = np.stack([-0.6 + 2 / FPS * np.minimum(frame, 6), 0.44 + 1 / FPS * np.maximum(frame - 6, 0)])
    return clip([np.stack([path, 0 * path + NEAR, 0 * path + 0.5], axis=1) for path in x], [1.0, 2.0])


def clip(paths: list[np.ndarray], masses: list[float]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and json; paths: of the centres, [T, 3] metres each, y as `NEAR`; masses: kg."""
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    instance = np.ones((FRAMES, SIZE, SIZE), dtype=np.uint8)
    motion = np.zeros((3, FRAMES - 1, SIZE, SIZE), dtype=np.float32)
    covered = np.zeros((FRAMES, SIZE, SIZE), dtype=bool)
    visible = np.ones((FRAMES - 1, SIZE, SIZE), dtype=bool)
    for number, path in enumerate(paths, start=2):
        u, v = FOCAL * path[:, 0] / NEAR + SIZE / 2, FOCAL * (1 - path[:, 2]) / NEAR + SIZE / 2
        half = FOCAL * HALF / NEAR
        for t in range(FRAMES):
            own = (abs(column - u[t]) < half) & (abs(row - v[t]) < half)
            instance[t][own], covered[t][own] = number, True
            if t < FRAMES - 1:
                du, dv = u[t + 1] - u[t], v[t + 1] - v[t]
                motion[0, t][own], motion[1, t][own] = du, dv
                outside = (abs(column + du - SIZE / 2) > SIZE / 2) | (abs(row + dv - SIZE / 2) > SIZE / 2)
                visible[t][own & outside] = False
    visible &= ~(covered[1:] & (instance[:-1] == 1))
    every = np.ones_like(covered)
    arrays = {
        "depth": np.where(covered, NEAR, FAR).astype(np.float32), "motion": motion, "instance": instance,
        "depth_valid": every, "flow_valid": every[1:], "dz_valid": every[1:], "visible": visible,
        "moving": (motion != 0).any(axis=0),
    }  # fmt: skip
    wall = {"instance": 1, "shape": "plane", "size": [], "mass": None, "dynamic": False}
    bodies = [
        {"instance": number, "shape": "box", "size": [HALF] * 3, "mass": mass, "dynamic": True}
        for number, mass in enumerate(masses, start=2)
    ]
    tracks = {
        str(number): {"position": path.tolist(), "quaternion": [[1, 0, 0, 0]] * FRAMES}
        for number, path in enumerate(paths, start=2)
    }
    meta = {
        "caption": "a plate", "category": "rigid", "family": "plates", "fps": FPS, "physics": {"gravity": GRAVITY},
        "frames": FRAMES, "height": SIZE, "width": SIZE, "intrinsics": [INTRINSICS] * FRAMES, "depth_kind": "metric",
        "camera_to_world": [POSE] * FRAMES, "objects": [wall, *bodies], "tracks": tracks,
    }  # fmt: skip
    return arrays, meta
