"""Checks that the motion is large enough and inside the image, for a mesh sequence of any kind."""

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import Scene, Unusable

NEAREST = 0.5  # metres from the camera
STRAY = 0.01  # share of a surface that may come nearer
FRAMED = 0.85  # share of the moving instances' vertices that the first frame must show
KEPT = 0.55  # the same as the mean over EVENT
EVENT = 0.6  # seconds over which an event is judged, wherever in the clip it shows most: a fall from 0.9 m takes 0.43 s
MOVING_SPEED = 0.024  # m/s
CELLS = 24  # rows and columns of the grid on which moving image regions are counted
COVERED = 0.02  # least share of grid cells with motion, mean over EVENT
PATH = 0.1  # least path in the image, over the image's size, of the fastest quarter of an instance's surface
SAMPLE = 500  # surface points of one instance


def is_cut_off(scene: Scene, points: np.ndarray, share: float = FRAMED) -> bool:
    """Whether the first frame shows less than `share` of the points, or a point is nearer than NEAREST.

    scene: gives the camera.
    points: [N, 3], world metres.
    share: least share of the points inside the image.
    """
    pixel, depth = scene.view.camera(1, 1, 1, 1.0).project(0, points)
    return bool(depth.min() < NEAREST or ((pixel > 0) & (pixel < 1)).all(axis=1).mean() < share)


def check_visible_motion(scene: Scene, meshes: MeshSequence, instances: list[int], fps: float) -> None:
    """Raises Unusable if too little of these instances moves, or too much of them leaves the image.

    scene: gives the camera.
    meshes: the simulated motion.
    instances: numbers of the instances that should move.
    fps: frames per second.
    """
    camera = scene.view.camera(meshes.frames, 1, 1, fps)
    inside, longest = [], 0.0
    cells = [np.zeros((CELLS, CELLS), dtype=bool) for _ in range(meshes.frames - 1)]
    for instance in instances:
        points = _surface_samples(meshes, instance)
        pixel, depth = zip(*(camera.project(t, points[t]) for t in range(meshes.frames)), strict=True)
        # Something may pass below the camera or behind it; a drop of many may come nearer, see `free_camera.FREE`.
        apart = (np.linalg.norm(points[t] - camera.origin(t), axis=1) for t in range(meshes.frames))
        if min(np.quantile(distance, STRAY) for distance in apart) < NEAREST:
            raise Unusable("too close to the camera")
        shown = [((p > 0) & (p < 1)).all(axis=1) & (d > 0) for p, d in zip(pixel, depth, strict=True)]
        inside.append(best_mean(np.mean(shown, axis=1), EVENT * fps))
        path = np.zeros(points.shape[1])
        for t in range(meshes.frames - 1):
            # Motion in the image without the camera's motion: the old position is projected by the new camera.
            before, _ = camera.project(t + 1, points[t])
            moves = shown[t + 1] & (np.linalg.norm(points[t + 1] - points[t], axis=1) * fps > MOVING_SPEED)
            path += moves * np.linalg.norm(pixel[t + 1] - before, axis=1)
            column, row = (pixel[t + 1][moves].T * CELLS).astype(int)
            cells[t][row, column] = True
        longest = max(longest, float(np.quantile(path, 0.75)))
    covered = best_mean(np.array([cell.mean() for cell in cells]), EVENT * fps)
    if covered < COVERED or longest < PATH:
        raise Unusable("too little moves")
    if min(inside) < KEPT:
        raise Unusable("leaves the picture")


def best_mean(share: np.ndarray, frames: float) -> float:
    """The largest mean over consecutive frames, or the mean of all if they are fewer.

    share: [T], one number for each frame.
    frames: number of consecutive frames; rounded, at least one.
    """
    length = min(max(round(frames), 1), len(share))
    sums = np.concatenate([[0.0], np.cumsum(share)])
    return float((sums[length:] - sums[:-length]).max() / length)


def _surface_samples(meshes: MeshSequence, instance: int) -> np.ndarray:
    """World positions [T, SAMPLE, 3] of material points spread evenly over an instance's surface in the first frame."""
    faces = meshes.faces[meshes.instance == instance]
    a, b, c = (meshes.vertices[0, faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).cumsum()
    number = np.arange(SAMPLE)
    which = np.searchsorted(area, (number + 0.5) / SAMPLE * area[-1])
    # An additive recurrence covers the unit square evenly (Roberts' R2); its upper half is mirrored to the lower.
    u, v = (0.5 + number * 0.7548776662) % 1, (0.5 + number * 0.5698402910) % 1
    u, v = np.where(u + v > 1, (1 - u, 1 - v), (u, v))
    weights = np.stack([1 - u - v, u, v], axis=1)
    return (weights[:, :, None] * meshes.vertices[:, faces[which]]).sum(axis=2)
