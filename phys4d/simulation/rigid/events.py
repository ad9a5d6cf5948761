"""Checks that the event of a rigid scene's caption happens early enough to be visible."""

import numpy as np

from phys4d.simulation.mesh_sequence import Track, rotation
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.scene import FIRST_BODY, GRAVITY

LATEST_CONTACT = {"ramp": 0.8, "pendulum": 0.75}  # latest time of the contact, as a share of the clip
USUAL_LATEST = 0.6
OFF_COURSE = 0.01  # metres from uniform motion (plus 5 % of the path) above which a body has been hit
DOWN_THE_RAMP = 0.2  # metres, least displacement on a ramp
FALLEN = 0.6  # radians of tilt above which a body has fallen
LAST_FALLEN = 0.2  # radians, the same for the last domino
TURNED = 1.2  # radians, least rotation of a turning body
BACK = 0.02  # metres, least return path of a ball with backspin
FASTER = 1.15  # least final speed over initial speed of a ball with topspin


def missing_event(scene: RigidBodies, tracks: dict[int, Track], fps: float) -> str | None:
    """Which part of the scene's event does not happen, or None if the event happens.

    scene: states the event.
    tracks: instance -> pose over time.
    fps: frames per second.
    """
    motion = [tracks[FIRST_BODY + number] for number in range(len(scene.bodies))]
    first = motion[0].position
    match scene.event:
        case "rolls down" | "slides down":
            if np.linalg.norm(first[-1] - first[0]) < DOWN_THE_RAMP:
                return "little way down the ramp"
        case "topples":
            return None if max(map(tilt, motion[1:])) > FALLEN else "the stack stands"
        case "falls over":
            return None if _row_falls(motion) else "the row stands"
        case "knocks over":
            row = scene.family == "dominoes"
            falls = _row_falls(motion[1:]) if row else max(map(tilt, motion[1:])) > FALLEN
            if not falls:
                return "the row stands" if row else "the stack stands"
        case "turns":
            return None if rotation_per_frame(motion[0]).sum() > TURNED else "little turning"
        case "comes back" | "speeds up":
            return _spun(scene, first, fps)
    if scene.event == "falls":
        contact = _first_bounce(first, fps)
    elif len(motion) > 1:
        departures = [_departure(scene, number, motion[number].position, fps) for number in range(1, len(motion))]
        contact = min((frame for frame in departures if frame is not None), default=None)
    else:
        return None
    latest = LATEST_CONTACT.get(scene.family, USUAL_LATEST) * len(first)
    return "no contact in time" if contact is None or contact > latest else None


def tilt(track: Track) -> float:
    """Radians between a body's z axis in the last frame and in the first."""
    first, last = rotation(track.quaternion[0])[:, 2], rotation(track.quaternion[-1])[:, 2]
    return float(np.arccos(np.clip(first @ last, -1, 1)))


def rotation_per_frame(track: Track) -> np.ndarray:
    """Radians of rotation from each frame to the next, [T - 1]."""
    cosine = np.abs((track.quaternion[1:] * track.quaternion[:-1]).sum(axis=1))
    return 2 * np.arccos(np.clip(cosine, 0, 1))


def _row_falls(row: list[Track]) -> bool:
    return min(map(tilt, row[:-1])) > FALLEN and tilt(row[-1]) > LAST_FALLEN


def _spun(scene: RigidBodies, position: np.ndarray, fps: float) -> str | None:
    """Checks that backspin brings a ball back, or that topspin makes it faster."""
    velocity, _ = scene.world_velocity(scene.bodies[0])
    speed = np.linalg.norm(velocity)
    way = (position - position[0]) @ velocity / speed
    if scene.event == "comes back":
        return None if way.max() - way[-1] > BACK else "does not come back"
    return None if (way[-1] - way[-2]) * fps > FASTER * speed else "does not speed up"


def _first_bounce(position: np.ndarray, fps: float) -> int | None:
    """The first frame at which the vertical acceleration differs from gravity."""
    acceleration = np.diff(position[:, 2], n=2) * fps**2
    return _first(np.abs(acceleration + GRAVITY) > 0.2 * GRAVITY, 1)


def _departure(scene: RigidBodies, number: int, position: np.ndarray, fps: float) -> int | None:
    """The first frame in which a body deviates from uniform motion with its initial velocity along the floor."""
    way = scene.world_velocity(scene.bodies[number])[0] * np.arange(len(position))[:, None] / fps
    off = np.linalg.norm(position - position[0] - way, axis=1)
    return _first(off > OFF_COURSE + 0.05 * np.linalg.norm(way, axis=1), 0)


def _first(condition: np.ndarray, offset: int) -> int | None:
    where = np.nonzero(condition)[0]
    return int(where[0]) + offset if len(where) else None
