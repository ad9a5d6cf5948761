"""Orientations as quaternions, level directions, and velocities rounded for captions."""

import numpy as np


def to_tenths(right: float, away: float, up: float) -> np.ndarray:
    """Velocity [3] rounded to 0.1 m/s, so that a caption with one decimal states it exactly.

    right, away, up: m/s.
    """
    return np.round(np.array([right, away, up]), 1) + 0.0


def throw(
    rng: np.random.Generator, *, share: float, level: tuple[float, float], up: tuple[float, float]
) -> np.ndarray:
    """A velocity [3] in tenths of m/s (right, away, up) at which something is thrown, nearly across the picture; zero
    if it starts from rest.

    share: of the draws that are thrown.
    level: range of the speed to the right or left, m/s.
    up: range of the speed upwards, m/s; negative is down.
    """
    thrown, side = bool(rng.uniform() < share), rng.choice([-1, 1])
    velocity = to_tenths(side * rng.uniform(*level), rng.uniform(-0.25, 0.25), rng.uniform(*up))
    return velocity if thrown else np.zeros(3)


def yaw_tilt(yaw: float, tilt: float = 0.0, tilt_azimuth: float = 0.0) -> np.ndarray:
    """Quaternion of a rotation about the vertical, followed by a tilt about a level axis.

    yaw, tilt: radians.
    tilt_azimuth: radians, azimuth of the level axis.
    """
    sine = np.sin(tilt / 2)
    about_level = np.array([np.cos(tilt / 2), sine * np.cos(tilt_azimuth), sine * np.sin(tilt_azimuth), 0])
    return _multiply(about_level, _about_z(yaw))


def heading(axes: np.ndarray, azimuth: float) -> np.ndarray:
    """Level world direction [3], `azimuth` radians from the camera's right towards away; axes: `View.level_axes`."""
    return np.cos(azimuth) * axes[0] + np.sin(azimuth) * axes[1]


def heading_pitch(direction: np.ndarray, pitch: float) -> np.ndarray:
    """Quaternion that rotates x to a level direction, then pitches it down, and keeps y level.

    direction: [3], level unit vector.
    pitch: radians. A pitch of pi / 2 aligns z with the direction, as for a cylinder lying on its side.
    """
    about_y = np.array([np.cos(pitch / 2), 0, np.sin(pitch / 2), 0])
    return _multiply(_about_z(np.arctan2(direction[1], direction[0])), about_y)


def _about_z(angle: float) -> np.ndarray:
    return np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])


def _multiply(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    w = p[0] * q[0] - p[1:] @ q[1:]
    return np.concatenate([[w], p[0] * q[1:] + q[0] * p[1:] + np.cross(p[1:], q[1:])])
