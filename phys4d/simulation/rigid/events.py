"""Whether what a caption announces happens, early enough to be seen."""

import numpy as np

from phys4d.simulation.mesh_sequence import Track, rotation
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.scene import FIRST_BODY, GRAVITY

LATEST_CONTACT = {"ramp": 0.8, "pendulum": 0.75}  # share of the clip by which the contact has happened
USUAL_LATEST = 0.6
OFF_COURSE = 0.01  # metres, and 5 % of the way
DOWN_THE_RAMP = 0.2  # metres
FALLEN = 0.6  # radians off upright
LAST_FALLEN = 0.2  # of the last domino
TURNED = 1.2  # radians
BACK = 0.02  # metres that a ball comes back
FASTER = 1.15


def missed(scene: RigidBodies, tracks: dict[int, Track], fps: float) -> str | None:
    """What is missing of the scene's event, or None."""
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
            return None if turned(motion[0]).sum() > TURNED else "little turning"
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


def turned(track: Track) -> np.ndarray:
    """Radians turned from each frame to the next [T - 1]."""
    cosine = np.abs((track.quaternion[1:] * track.quaternion[:-1]).sum(axis=1))
    return 2 * np.arccos(np.clip(cosine, 0, 1))


def _row_falls(row: list[Track]) -> bool:
    return min(map(tilt, row[:-1])) > FALLEN and tilt(row[-1]) > LAST_FALLEN


def _spun(scene: RigidBodies, position: np.ndarray, fps: float) -> str | None:
    """Whether backspin brings a ball back, topspin makes it faster."""
    velocity, _ = scene.world_velocity(scene.bodies[0])
    speed = np.linalg.norm(velocity)
    way = (position - position[0]) @ velocity / speed
    if scene.event == "comes back":
        return None if way.max() - way[-1] > BACK else "does not come back"
    return None if (way[-1] - way[-2]) * fps > FASTER * speed else "does not speed up"


def _first_bounce(position: np.ndarray, fps: float) -> int | None:
    """The first frame by which the vertical velocity is not what gravity alone makes it."""
    acceleration = np.diff(position[:, 2], n=2) * fps**2
    return _first(np.abs(acceleration + GRAVITY) > 0.2 * GRAVITY, 1)


def _departure(scene: RigidBodies, number: int, position: np.ndarray, fps: float) -> int | None:
    """The first frame in which a body is not where its first velocity takes it along the floor."""
    way = scene.world_velocity(scene.bodies[number])[0] * np.arange(len(position))[:, None] / fps
    off = np.linalg.norm(position - position[0] - way, axis=1)
    return _first(off > OFF_COURSE + 0.05 * np.linalg.norm(way, axis=1), 0)


def _first(condition: np.ndarray, offset: int) -> int | None:
    where = np.nonzero(condition)[0]
    return int(where[0]) + offset if len(where) else None
