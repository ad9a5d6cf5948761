"""Whether a drawn scene shows what its caption says; a family draws again where it does not."""

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.scene import FIRST_BODY, Scene

LATEST_CONTACT = 0.6  # share of the clip by which the announced contact has happened
EDGE = 0.55  # share of a body's radius that its centre keeps from the image's edge in the first frame
MOVING_SHARE = 0.055  # of the pixels, mean over frames, estimated from the bodies' outlines


def fault(scene: Scene, tracks: dict[int, Track], fps: float) -> str | None:
    """Why the scene cannot be used, or None."""
    camera = scene.view.camera(1, 256, 256)
    frames = len(tracks[FIRST_BODY].position)
    covered = np.zeros(frames - 1)
    for number, body in enumerate(scene.bodies):
        track = tracks[FIRST_BODY + number].position
        pixel, depth = camera.project(0, track)
        if depth.min() < 0.5:
            return "too close to the camera"
        radius = 0.85 * shapes.bounding_radius(body.shape, body.size) * (1.15 if body.shape == "ball" else 1)
        outline = radius * camera.intrinsics[0, 0, 0] / depth
        if (np.abs(pixel[0] - 128) > 128 - EDGE * outline[0]).any():
            return "outside the first frame"
        inside = (np.abs(pixel - 128) < 128).all(axis=1)[1:]
        moves = np.linalg.norm(np.diff(track, axis=0), axis=1) > 1e-3
        covered += inside * moves * np.pi * outline[1:] ** 2 / 256**2
    if covered.mean() < MOVING_SHARE:
        return "too little moves"
    if len(scene.bodies) == 1:
        contact = _turning(tracks[FIRST_BODY].position, fps)
    else:
        second = scene.bodies[1]
        contact = _departure(tracks[FIRST_BODY + 1].position, fps, np.array(scene.world_velocity(second)[0]))
    if contact is None or contact > LATEST_CONTACT * frames:
        return "no contact in time"
    return None


def _turning(position: np.ndarray, fps: float) -> int | None:
    """The first frame whose vertical velocity is not what gravity alone makes it."""
    change = np.diff(position[:, 2], n=2) * fps**2
    hit = np.nonzero(np.abs(change + 9.81) > 2.0)[0]
    return int(hit[0]) + 1 if len(hit) else None


def _departure(position: np.ndarray, fps: float, velocity: np.ndarray) -> int | None:
    """The first frame in which a body is not where its first velocity takes it along the floor."""
    time = np.arange(len(position))[:, None] / fps
    off = np.linalg.norm(position - position[0] - velocity * time, axis=1)
    hit = np.nonzero(off > 0.01 + 0.05 * np.linalg.norm(velocity) * time[:, 0])[0]
    return int(hit[0]) if len(hit) else None
