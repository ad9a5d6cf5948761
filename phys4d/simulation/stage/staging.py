"""What every family draws alike: the room, the light, the camera and the make of a body."""

from collections.abc import Sequence

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Body, Rod, Shape
from phys4d.simulation.scene import Light, Room, View
from phys4d.simulation.stage.materials import HUES, MATERIALS, muted, saturated

TARGET = (0.0, 0.05, 0.4)


def view(
    random: np.random.Generator,
    *,
    distance: tuple[float, float] = (1.4, 1.65),
    height: tuple[float, float] = (0.65, 1.1),
    target_height: float = TARGET[2],
) -> View:
    """A camera that looks at the middle of the stage from slightly above; all in metres.

    distance: from the vertical through the stage's middle; height: of the camera; target_height: what it looks at.
    """
    azimuth = random.uniform(-0.35, 0.35)
    away = random.uniform(*distance)
    eye = (away * np.sin(azimuth), -away * np.cos(azimuth), random.uniform(*height))
    return View(eye, (TARGET[0], TARGET[1], target_height), 45.0)


def room(random: np.random.Generator) -> Room:
    """A floor and a wall, one light and one dark enough to tell apart."""
    values = [(0.62, 0.82), (0.42, 0.56)]
    random.shuffle(values)
    floor, wall = (muted(random, *value) for value in values)
    return Room(floor, wall, depth=random.uniform(1.1, 1.5), texture_angle=random.uniform(0, np.pi / 2))


def light(random: np.random.Generator) -> Light:
    """A sun from above, off to any side but behind the wall."""
    azimuth = random.uniform(-1.3, 1.3)
    slope = random.uniform(0.25, 0.7)
    direction = (slope * np.sin(azimuth), slope * np.cos(azimuth), -1.0)
    return Light(direction, TARGET, random.uniform(0.75, 1.0), random.uniform(0.35, 0.5))


def colours(random: np.random.Generator, count: int) -> list[str]:
    """Distinct colour names."""
    return [str(name) for name in random.choice(list(HUES), size=count, replace=False)]


def size_of(shape: Shape, radius: float) -> tuple[float, ...]:
    """Sizes that make the shapes look about as large as a ball of that radius."""
    return {
        "ball": (radius,),
        "box": (0.82 * radius,) * 3,
        "cylinder": (0.85 * radius, 0.8 * radius),
        "capsule": (0.72 * radius, 0.7 * radius),
    }[shape]


def body(
    random: np.random.Generator,
    shape: Shape,
    colour: str,
    size: tuple[float, ...],
    position: np.ndarray,
    *,
    quaternion: np.ndarray | None = None,
    velocity: np.ndarray | None = None,
    rolling: bool = False,
    turning: float = 0.0,
    topspin: float = 0.0,
    rod: Rod | None = None,
    materials: Sequence[str] = tuple(MATERIALS),
) -> Body:
    """A body of one of these materials; physics from the material's ranges."""
    material = str(random.choice(list(materials)))
    kind = MATERIALS[material]
    right, away, up = np.zeros(3) if velocity is None else velocity
    w, x, y, z = (1.0, 0.0, 0.0, 0.0) if quaternion is None else quaternion
    return Body(
        shape=shape,
        material=material,
        colour=colour,
        rgb=saturated(colour, random),
        size=tuple(float(s) for s in size),
        density=random.uniform(*kind.density),
        friction=random.uniform(*kind.friction),
        restitution=random.uniform(*kind.restitution),
        position=(float(position[0]), float(position[1]), float(position[2])),
        quaternion=(float(w), float(x), float(y), float(z)),
        velocity=(float(right), float(away), float(up)),
        rolling=rolling,
        turning=turning,
        topspin=topspin,
        rod=rod,
    )


def to_tenths(right: float, away: float, up: float) -> np.ndarray:
    """Velocity rounded to 0.1 m/s, so that a caption with one decimal states it exactly."""
    return np.round(np.array([right, away, up]), 1) + 0.0


def turned(yaw: float, tilt: float = 0.0, tilt_azimuth: float = 0.0) -> np.ndarray:
    """Quaternion: a turn about the vertical, then a tilt about a level axis (radians)."""
    sine = np.sin(tilt / 2)
    about_level = np.array([np.cos(tilt / 2), sine * np.cos(tilt_azimuth), sine * np.sin(tilt_azimuth), 0])
    return _multiply(about_level, _about_z(yaw))


def heading(axes: np.ndarray, azimuth: float) -> np.ndarray:
    """Level world direction [3], `azimuth` radians from the camera's right towards away; axes: `View.level_axes`."""
    return np.cos(azimuth) * axes[0] + np.sin(azimuth) * axes[1]


def pitched(direction: np.ndarray, pitch: float) -> np.ndarray:
    """Quaternion that takes x to a level direction [3], turned down by `pitch` radians, and keeps y level.

    By a quarter turn it lays z along the direction, as of a cylinder on its side.
    """
    about_y = np.array([np.cos(pitch / 2), 0, np.sin(pitch / 2), 0])
    return _multiply(_about_z(np.arctan2(direction[1], direction[0])), about_y)


def standing(shape: Shape, size: tuple[float, ...]) -> float:
    """Height of a body's centre when it rests upright on the floor."""
    return shapes.half_height(shape, size)


def _about_z(angle: float) -> np.ndarray:
    return np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])


def _multiply(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    w = p[0] * q[0] - p[1:] @ q[1:]
    return np.concatenate([[w], p[0] * q[1:] + q[0] * p[1:] + np.cross(p[1:], q[1:])])
