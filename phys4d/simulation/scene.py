"""A scene as drawn by a family: what stands where at t = 0, before any simulator sees it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.camera import Camera

Shape = Literal["ball", "box", "cylinder", "capsule"]
Colour = tuple[float, float, float]

FLOOR, WALL, FIRST_BODY = 1, 2, 3


@dataclass(frozen=True)
class Body:
    """A free rigid body.

    size: see `shapes.mesh`, metres. density kg/m3. position: world metres; quaternion (w, x, y, z).
    velocity: m/s along the camera's level axes (right, away, up), in tenths, so that a caption is exact.
    rolling: turns as it moves, without slipping on the floor; otherwise it does not turn at the start.
    """

    shape: Shape
    material: str
    colour: str
    rgb: Colour
    size: tuple[float, ...]
    density: float
    friction: float
    restitution: float
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rolling: bool = False

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material} {self.shape}"

    @property
    def mass(self) -> float:
        return self.density * shapes.volume(self.shape, self.size)

    @property
    def resting(self) -> bool:
        return not any(self.velocity)


@dataclass(frozen=True)
class Light:
    """A sun with one direction (world, towards the scene) and ambient light; strengths without unit.

    focus: world point in metres around which shadows are cast.
    """

    direction: tuple[float, float, float]
    focus: tuple[float, float, float]
    strength: float
    ambient: float


@dataclass(frozen=True)
class View:
    """A static camera: eye and target in world metres, angle in degrees across the smaller image side."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float

    def camera(self, frames: int, height: int, width: int) -> Camera:
        return Camera.static(frames, height, width, eye=np.array(self.eye), target=np.array(self.target), fov=self.fov)

    def level_axes(self) -> np.ndarray:
        """World directions [3, 3], in rows: right, away (level, from the camera into the scene) and up."""
        x, y = self.target[0] - self.eye[0], self.target[1] - self.eye[1]
        away = np.array([x, y, 0.0]) / np.hypot(x, y)
        return np.stack([np.array([away[1], -away[0], 0.0]), away, np.array([0.0, 0.0, 1.0])])


@dataclass(frozen=True)
class Room:
    """A floor at z = 0 and a back wall at y = depth, with the directions in which their textures run."""

    floor: Colour
    wall: Colour
    depth: float
    texture_angle: float


@dataclass(frozen=True)
class Scene:
    """family: its name. event: what the first body does, to the second if there is one."""

    family: str
    event: Literal["falls", "falls onto", "hits", "meets"]
    bodies: tuple[Body, ...]
    room: Room
    view: View
    light: Light

    def world_velocity(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Linear [3] m/s and angular [3] rad/s velocity of a body at t = 0, in world axes."""
        linear = np.array(body.velocity) @ self.view.level_axes()
        angular = np.zeros(3)
        if body.rolling:
            angular = np.cross((0.0, 0.0, 1.0), linear) / body.size[0]
        return linear, angular
