"""Samples what all families share: room, light, camera and bodies."""

from collections.abc import Sequence

import numpy as np

from phys4d.simulation.body import Body, Rod, Shape
from phys4d.simulation.scene import Light, Room, View
from phys4d.simulation.scenery.materials import HUES, MATERIALS, muted, saturated

TARGET = (0.0, 0.05, 0.4)
FACING = np.pi / 4  # radians, largest angle between the camera's azimuth and the normal of the back wall
USUAL_FOV, FOV = 45.0, (30.0, 70.0)  # degrees across the smaller image side
WIDE = 0.6  # power of the distance's ratio for a wide lens; 1 would keep the size of the scene in the image
RAISED, STEEPEST = (0.7, 1.8), 1.0  # factor of the camera's angle above the scene; radians, the largest one
DEPTH, SIDE, FRONT, HEIGHT = (1.2, 2.4), (2.3, 3.6), (3.0, 4.0), (2.7, 3.4)  # metres, see `Room`


def view(
    rng: np.random.Generator,
    *,
    distance: tuple[float, float] = (1.4, 1.65),
    height: tuple[float, float] = (0.65, 1.1),
    target_height: float = TARGET[2],
) -> View:
    """Samples a camera that looks at the middle of the scene from above.

    A room has four walls; the back wall is the one that the camera faces, up to FACING. The field of view is that of a
    long to a wide lens, and the camera stands where the scene keeps about its size in the image.

    distance: range in metres from the vertical axis through the middle of the scene, for a field of view of USUAL_FOV.
    height: range in metres of the camera's height at that distance.
    target_height: metres, height of the point that it looks at.
    """
    azimuth = rng.uniform(-FACING, FACING)
    away, up = rng.uniform(*distance), rng.uniform(*height) - target_height
    more = _further(away)
    fov, raised = more.uniform(*FOV), more.uniform(*RAISED)
    reach = np.hypot(away, up) * _reach(fov)
    pitch = min(np.arctan2(up, away) * raised, STEEPEST)
    level = reach * np.cos(pitch)
    eye = (level * np.sin(azimuth), TARGET[1] - level * np.cos(azimuth), target_height + reach * np.sin(pitch))
    return View((float(eye[0]), float(eye[1]), float(eye[2])), (TARGET[0], TARGET[1], target_height), float(fov))


def with_usual_lens(seen: View) -> View:
    """A sampled view with a field of view of USUAL_FOV, from the distance that was sampled for it."""
    eye, target = np.array(seen.eye), np.array(seen.target)
    x, y, z = target + (eye - target) / _reach(seen.fov)
    return View((float(x), float(y), float(z)), seen.target, USUAL_FOV)


def _reach(fov: float) -> float:
    """Distance of a camera with this field of view over that with USUAL_FOV."""
    ratio = np.tan(np.deg2rad(USUAL_FOV) / 2) / np.tan(np.deg2rad(fov) / 2)
    # A wide lens at the same size in the image would stand inside the scene.
    return float(ratio if ratio > 1 else ratio**WIDE)


def room(rng: np.random.Generator) -> Room:
    """Samples a closed room whose floor is bright and whose walls are dark, or the opposite."""
    values = [(0.62, 0.82), (0.42, 0.56)]
    rng.shuffle(values)
    floor, wall = (muted(rng, *value) for value in values)
    depth, texture_angle = rng.uniform(*DEPTH), rng.uniform(0, np.pi / 2)
    more = _further(depth)
    left, right, front, height = (more.uniform(*each) for each in (SIDE, SIDE, FRONT, HEIGHT))
    return Room(
        floor, wall, depth=depth, texture_angle=texture_angle, left=left, right=right, front=front, height=height
    )


def _further(number: float) -> np.random.Generator:
    """A generator for more choices that follow from a sampled number, so that the draws after it stay the same."""
    return np.random.default_rng(int.from_bytes(np.float64(number).tobytes(), "little"))


def light(rng: np.random.Generator) -> Light:
    """Samples a light above the scene, from any side; the room casts no shadow."""
    azimuth = rng.uniform(-np.pi, np.pi)
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
