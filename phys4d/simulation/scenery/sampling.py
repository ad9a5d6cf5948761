"""Samples what all families share: room, light, camera and bodies."""

from collections.abc import Sequence

import numpy as np

from phys4d.simulation.body import Body, Rod, Shape
from phys4d.simulation.scene import Light, Room, View
from phys4d.simulation.scenery.materials import HUES, MATERIALS, muted, saturated

TARGET = (0.0, 0.05, 0.4)


def view(
    rng: np.random.Generator,
    *,
    distance: tuple[float, float] = (1.4, 1.65),
    height: tuple[float, float] = (0.65, 1.1),
    target_height: float = TARGET[2],
) -> View:
    """Samples a camera that looks at the middle of the scene from slightly above.

    distance: range in metres from the vertical axis through the middle of the scene.
    height: range in metres of the camera's height.
    target_height: metres, height of the point that it looks at.
    """
    azimuth = rng.uniform(-0.35, 0.35)
    away = rng.uniform(*distance)
    eye = (away * np.sin(azimuth), -away * np.cos(azimuth), rng.uniform(*height))
    return View(eye, (TARGET[0], TARGET[1], target_height), 45.0)


def room(rng: np.random.Generator) -> Room:
    """Samples a floor and a wall, one bright and one dark."""
    values = [(0.62, 0.82), (0.42, 0.56)]
    rng.shuffle(values)
    floor, wall = (muted(rng, *value) for value in values)
    return Room(floor, wall, depth=rng.uniform(1.1, 1.5), texture_angle=rng.uniform(0, np.pi / 2))


def light(rng: np.random.Generator) -> Light:
    """Samples a sun above the scene, from any side except behind the wall."""
    azimuth = rng.uniform(-1.3, 1.3)
    slope = rng.uniform(0.25, 0.7)
    direction = (slope * np.sin(azimuth), slope * np.cos(azimuth), -1.0)
    return Light(direction, TARGET, rng.uniform(0.75, 1.0), rng.uniform(0.35, 0.5))


def colours(rng: np.random.Generator, count: int) -> list[str]:
    """Samples `count` distinct colour names."""
    return [str(name) for name in rng.choice(list(HUES), size=count, replace=False)]


def size_for_radius(shape: Shape, radius: float) -> tuple[float, ...]:
    """Size of a shape that looks about as large as a ball of `radius` metres; sizes as for `shapes.mesh`."""
    return {
        "ball": (radius,),
        "box": (0.82 * radius,) * 3,
        "cylinder": (0.85 * radius, 0.8 * radius),
        "capsule": (0.72 * radius, 0.7 * radius),
    }[shape]


def body(
    rng: np.random.Generator,
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
    """Samples a body of one of `materials`; its physical parameters are from the material's ranges.

    shape, size: as for `shapes.mesh`.
    colour: name of a hue in `materials.HUES`.
    position: [3], world metres.
    quaternion, velocity, rolling, turning, topspin, rod: as for `Body`.
    materials: names in `materials.MATERIALS` to choose from.
    """
    material = str(rng.choice(list(materials)))
    kind = MATERIALS[material]
    right, away, up = np.zeros(3) if velocity is None else velocity
    w, x, y, z = (1.0, 0.0, 0.0, 0.0) if quaternion is None else quaternion
    return Body(
        shape=shape,
        material=material,
        colour=colour,
        rgb=saturated(colour, rng),
        size=tuple(float(s) for s in size),
        density=rng.uniform(*kind.density),
        friction=rng.uniform(*kind.friction),
        restitution=rng.uniform(*kind.restitution),
        position=(float(position[0]), float(position[1]), float(position[2])),
        quaternion=(float(w), float(x), float(y), float(z)),
        velocity=(float(right), float(away), float(up)),
        rolling=rolling,
        turning=turning,
        topspin=topspin,
        rod=rod,
    )
