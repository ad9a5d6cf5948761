"""Checks that a rigid scene shows the event of its caption with enough motion."""

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.rigid.events import missing_event, rotation_per_frame
from phys4d.simulation.scene import FIRST_BODY
from phys4d.simulation.screening import EVENT, best_mean

EDGE = 0.55  # least distance of a body's centre from the image's edge in the first frame, over its radius
# Per family: least share of moving pixels, mean over `EVENT`, estimated from the bodies' outlines; least path
# in the image, over its size, of the centre of the body that moves most. Rotation counts as the motion of the outline;
# the ball in the smoke is not all that moves.
SHOWN = {"fall": (0.055, 0.36), "collision": (0.055, 0.36), "dominoes": (0.03, 0.1), "smoke": (0.02, 0.13)}
SHOWN_AT_LEAST = (0.03, 0.13)
MOVING_SPEED = 0.024  # m/s
NEAREST = 0.5  # metres from the camera


def badly_framed(scene: RigidBodies) -> bool:
    """Whether a body extends out of the first frame by more than a tolerance."""
    camera = scene.view.camera(1, 1, 1, 1.0)
    centre = np.array([body.position for body in scene.bodies])
    pixel, depth = camera.project(0, centre)
    margin = EDGE * _radii(scene) * camera.intrinsics[0, 0, 0] / depth
    outside = np.abs(pixel - 0.5) + margin[:, None] > 0.5
    return bool(outside.any() or depth.min() < NEAREST)


def rejection_reason(scene: RigidBodies, tracks: dict[int, Track], fps: float) -> str | None:
    """Why the motion is rejected, or None.

    scene: bodies, camera and event.
    tracks: instance -> pose over time.
    fps: frames per second.
    """
    moving = [tracks[FIRST_BODY + number] for number in range(len(scene.bodies))]
    position = np.stack([track.position for track in moving])
    frames = position.shape[1]
    camera = scene.view.camera(frames, 1, 1, fps)
    projected = [camera.project(t, position[:, t]) for t in range(frames)]
    pixel, depth = np.stack([p for p, _ in projected], axis=1), np.stack([d for _, d in projected], axis=1)
    # A body may pass below the camera or behind it.
    if min(np.linalg.norm(position[:, t] - camera.origin(t), axis=1).min() for t in range(frames)) < NEAREST:
        return "too close to the camera"
    outline = _radii(scene)[:, None] * camera.intrinsics[0, 0, 0] / np.maximum(depth, NEAREST)
    inside = (np.abs(pixel[:, 1:] - 0.5) < 0.5).all(axis=2) & (depth[:, 1:] > 0)
    # Motion in the image without the camera's motion: the old position is projected by the new camera.
    before = np.stack([camera.project(t + 1, position[:, t])[0] for t in range(frames - 1)], axis=1)
    way = np.linalg.norm(pixel[:, 1:] - before, axis=2)
    speed = np.linalg.norm(np.diff(position, axis=1), axis=2) * fps
    if scene.family == "spin":
        angle = np.stack([rotation_per_frame(track) for track in moving])
        way, speed = way + angle * outline[:, 1:], speed + angle * _radii(scene)[:, None] * fps
    moves = inside & (speed > MOVING_SPEED)
    covered = best_mean((moves * np.pi * outline[:, 1:] ** 2).sum(axis=0), EVENT * fps)
    path = (moves * way).sum(axis=1).max()
    least_covered, least_path = SHOWN.get(scene.family, SHOWN_AT_LEAST)
    if covered < least_covered or path < least_path:
        return "too little moves"
    return missing_event(scene, tracks, fps)


def _radii(scene: RigidBodies) -> np.ndarray:
    """Radius in metres of the disc that each body covers in the image, about."""
    return np.array(
        [
            shapes.bounding_radius(body.shape, body.size) * (1.0 if body.shape == "ball" else 0.85)
            for body in scene.bodies
        ]
    )
