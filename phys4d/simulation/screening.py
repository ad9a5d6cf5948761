"""Whether a drawn scene shows what its caption says; where it does not, it is drawn again."""

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.scene import FIRST_BODY, Scene

LATEST_CONTACT = 0.6  # share of the clip by which the announced contact has happened
EDGE = 0.55  # share of a body's radius that its centre keeps from the image's edge in the first frame
MOVING_SHARE = 0.055  # of the pixels, mean over frames, estimated from the bodies' outlines
LONGEST_PATH = 0.36  # of the image's size, travelled by the centre of the body that moves most
MOVING_SPEED = 0.024  # m/s
OFF_COURSE = 0.01  # metres, and 5 % of the way
NEAREST = 0.5  # metres from the camera
GRAVITY = 9.81


def badly_framed(scene: Scene) -> bool:
    """A body reaches out of the first frame by more than a little."""
    camera = scene.view.camera(1, 1, 1)
    centre = np.array([body.position for body in scene.bodies])
    pixel, depth = camera.project(0, centre)
    margin = EDGE * _radii(scene) * camera.intrinsics[0, 0, 0] / depth
    outside = np.abs(pixel - 0.5) + margin[:, None] > 0.5
    return bool(outside.any() or depth.min() < NEAREST)


def fault(scene: Scene, tracks: dict[int, Track], fps: float) -> str | None:
    """Why the motion cannot be used, or None."""
    camera = scene.view.camera(1, 1, 1)
    position = np.stack([tracks[FIRST_BODY + number].position for number in range(len(scene.bodies))])
    flat_pixel, flat_depth = camera.project(0, position.reshape(-1, 3))
    pixel, depth = flat_pixel.reshape(*position.shape[:2], 2), flat_depth.reshape(position.shape[:2])
    if depth.min() < NEAREST:
        return "too close to the camera"
    outline = _radii(scene)[:, None] * camera.intrinsics[0, 0, 0] / depth
    inside = (np.abs(pixel[:, 1:] - 0.5) < 0.5).all(axis=2)
    moves = inside & (np.linalg.norm(np.diff(position, axis=1), axis=2) * fps > MOVING_SPEED)
    covered = (moves * np.pi * outline[:, 1:] ** 2).sum(axis=0).mean()
    path = (moves * np.linalg.norm(np.diff(pixel, axis=1), axis=2)).sum(axis=1).max()
    if covered < MOVING_SHARE or path < LONGEST_PATH:
        return "too little moves"
    contact = _first_bounce(position[0], fps) if len(position) == 1 else _departure(scene, position[1], fps)
    if contact is None or contact > LATEST_CONTACT * position.shape[1]:
        return "no contact in time"
    return None


def _radii(scene: Scene) -> np.ndarray:
    """Radius in metres of the disc that each body covers in the image, about."""
    return np.array(
        [
            shapes.bounding_radius(body.shape, body.size) * (1.0 if body.shape == "ball" else 0.85)
            for body in scene.bodies
        ]
    )


def _first_bounce(position: np.ndarray, fps: float) -> int | None:
    """The first frame by which the vertical velocity is not what gravity alone makes it."""
    acceleration = np.diff(position[:, 2], n=2) * fps**2
    return _first(np.abs(acceleration + GRAVITY) > 0.2 * GRAVITY, 1)


def _departure(scene: Scene, position: np.ndarray, fps: float) -> int | None:
    """The first frame in which the second body is not where its first velocity takes it along the floor."""
    way = scene.world_velocity(scene.bodies[1])[0] * np.arange(len(position))[:, None] / fps
    off = np.linalg.norm(position - position[0] - way, axis=1)
    return _first(off > OFF_COURSE + 0.05 * np.linalg.norm(way, axis=1), 0)


def _first(condition: np.ndarray, offset: int) -> int | None:
    where = np.nonzero(condition)[0]
    return int(where[0]) + offset if len(where) else None
