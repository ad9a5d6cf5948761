"""Camera motion at a constant rate from the first frame on, so that a caption states it completely."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from phys4d.simulation.scenery.camera import Camera, look_at, pinhole

Kind = Literal["orbit", "pan", "dolly", "truck", "crane", "still"]

# Words of the caption: verb, direction of a positive rate, direction of a negative rate, unit.
WORDS: dict[Kind, tuple[str, str, str, str]] = {
    "orbit": ("orbits", "right", "left", "degrees/s"),
    "pan": ("pans", "right", "left", "degrees/s"),
    "dolly": ("moves", "forward", "back", "m/s"),
    "truck": ("moves", "right", "left", "m/s"),
    "crane": ("moves", "up", "down", "m/s"),
}

# Handheld shake, the same in all clips, since a caption does not describe it: (amplitude in metres, frequency in Hz)
# along the camera's level axes (right, away, up), of the eye and of the target.
EYE_SHAKE = ((0.010, 1.7), (0.006, 1.1), (0.008, 2.3))
TARGET_SHAKE = ((0.014, 1.3), (0.0, 1.0), (0.010, 1.9))


@dataclass(frozen=True)
class CameraPath:
    """Motion of a camera.

    kind: orbit (about the target), pan, dolly (along the optical axis), truck (level, to the right), crane (up), or
        still.
    rate: degrees per second for orbit and pan, m/s for dolly, truck and crane.
    handheld: adds a small shake.
    """

    kind: Kind
    rate: float = 0.0
    handheld: bool = False

    def words(self) -> str:
        """The motion in words, such as "orbits right at 15 degrees/s, handheld"."""
        if self.kind == "still":
            return "is handheld"
        verb, positive, negative, unit = WORDS[self.kind]
        number = f"{abs(self.rate):.0f}" if unit == "degrees/s" else f"{abs(self.rate):.1f}"
        return f"{verb} {positive if self.rate > 0 else negative} at {number} {unit}{', handheld' * self.handheld}"

    def place(self, eye: np.ndarray, target: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Eye and target, each [3] in world metres, `time` seconds after the first frame; the arguments are those at t
        = 0.
        """
        axes = level_axes(eye, target)
        way = self.rate * time
        if self.kind == "orbit":
            eye = target + _turned(eye - target, np.deg2rad(way))
        elif self.kind == "pan":
            target = eye + _turned(target - eye, -np.deg2rad(way))
        elif self.kind != "still":
            directions = {"dolly": (target - eye) / np.linalg.norm(target - eye), "truck": axes[0], "crane": axes[2]}
            eye, target = eye + way * directions[self.kind], target + way * directions[self.kind]
        if self.handheld:
            eye, target = eye + _shake(EYE_SHAKE, time) @ axes, target + _shake(TARGET_SHAKE, time) @ axes
        return eye, target

    def camera(
        self, frames: int, height: int, width: int, fps: float, *, eye: np.ndarray, target: np.ndarray, fov: float
    ) -> Camera:
        """The camera of every frame.

        frames: T, number of frames.
        height, width: image size, pixels.
        fps: frames per second.
        eye, target: [3], world metres in the first frame.
        fov: degrees across the smaller image side.
        """
        places = [self.place(eye, target, frame / fps) for frame in range(frames)]
        poses = np.stack([look_at(*place) for place in places])
        return Camera(np.tile(pinhole(height, width, fov), (frames, 1, 1)), poses, height, width)


def sample(rng: np.random.Generator) -> CameraPath:
    """Samples a path; 40 % are handheld. All but an orbit are slow enough to keep the scene in the image for a second.
    """
    kinds: list[Kind] = ["orbit", "pan", "dolly", "truck", "crane", "still"]
    kind = kinds[rng.choice(6, p=[0.3, 0.15, 0.2, 0.15, 0.1, 0.1])]
    sign = float(rng.choice([-1, 1]))
    if kind == "orbit":
        rate = sign * float(rng.integers(10, 61))
    elif kind == "pan":
        rate = sign * float(rng.integers(4, 11))
    elif kind == "dolly":
        rate = round(rng.uniform(0.2, 0.5) if sign > 0 else -rng.uniform(0.2, 0.6), 1)
    else:
        rate = sign * round(rng.uniform(0.1, 0.3 if kind == "crane" else 0.4), 1)
    if kind == "still":
        return CameraPath("still", handheld=True)
    return CameraPath(kind, rate, bool(rng.uniform() < 0.4))


def level_axes(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """World directions [3, 3], in rows: right, away (level, from the camera into the scene) and up."""
    x, y = target[0] - eye[0], target[1] - eye[1]
    away = np.array([x, y, 0.0]) / np.hypot(x, y)
    return np.stack([np.array([away[1], -away[0], 0.0]), away, np.array([0.0, 0.0, 1.0])])


def _turned(vector: np.ndarray, angle: float) -> np.ndarray:
    """A vector [3] rotated about the vertical by `angle` radians, counterclockwise seen from above."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1], vector[2]])


def _shake(parts: tuple[tuple[float, float], ...], time: float) -> np.ndarray:
    return np.array([size * np.sin(2 * np.pi * frequency * time) for size, frequency in parts])
