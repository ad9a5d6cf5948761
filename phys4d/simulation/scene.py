"""A scene as drawn by a family: what stands where at t = 0, before any simulator sees it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.camera import Camera
from phys4d.simulation.camera_path import CameraPath, level_axes
from phys4d.simulation.mesh_sequence import Texture, rotation

Shape = Literal["ball", "box", "cylinder", "capsule"]
Colour = tuple[float, float, float]

Event = Literal[
    "falls", "falls onto", "hits", "meets", "rolls down", "slides down", "topples", "falls over", "knocks over",
    "swings into", "turns", "comes back", "speeds up",
]  # fmt: skip

FLOOR, WALL, FIRST_BODY = 1, 2, 3
GRAVITY = 9.81


@dataclass(frozen=True)
class Rod:
    """A stiff rod without mass from a body's centre along its own z axis to a pivot, about which both swing.

    length and radius in metres; axis: world direction of the hinge, unit length.
    """

    length: float
    radius: float
    axis: tuple[float, float, float]
    rgb: Colour


@dataclass(frozen=True)
class Prop:
    """Scenery that never moves and that bodies can touch; size, position and quaternion as for a `Body`."""

    name: str
    shape: Shape
    rgb: Colour
    texture: Texture
    size: tuple[float, ...]
    friction: float
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Body:
    """A rigid body, free or on a rod.

    size: see `shapes.mesh`, metres. density kg/m3. position: world metres; quaternion (w, x, y, z).
    velocity: m/s along the camera's level axes (right, away, up), in tenths, so that a caption is exact.
    rolling: turns as it moves, without slipping on the floor; otherwise it does not turn at the start, unless
    turning (turns per second about the vertical, counterclockwise seen from above) or topspin (turns per second about
    the level axis across its velocity, as if rolling; backspin is negative) say so, in tenths like the velocity.
    rod: what it hangs on; its velocity is then along the circle on which it swings.
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
    turning: float = 0.0
    topspin: float = 0.0
    rod: Rod | None = None

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material} {self.shape}"

    @property
    def mass(self) -> float:
        return self.density * shapes.volume(self.shape, self.size)

    @property
    def resting(self) -> bool:
        return not any(self.velocity) and not self.turning

    @property
    def pivot(self) -> np.ndarray:
        """World position [3] in metres of the far end of the rod."""
        assert self.rod is not None
        return np.array(self.position) + self.rod.length * rotation(np.array(self.quaternion))[:, 2]


@dataclass(frozen=True)
class Light:
    """A sun with one direction (world, towards the scene) and ambient light; strengths without unit.

    focus: world point in metres around which shadows are cast. softness: width of a shadow's edge over the distance
    to what casts it, 0 for a sharp one. sun and sky: colours of the two lights.
    """

    direction: tuple[float, float, float]
    focus: tuple[float, float, float]
    strength: float
    ambient: float
    softness: float = 0.0
    sun: Colour = (1.0, 1.0, 1.0)
    sky: Colour = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class View:
    """A camera: eye and target in world metres at t = 0, angle in degrees across the smaller image side, and the path
    it takes, None for a static one."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float
    path: CameraPath | None = None

    def camera(self, frames: int, height: int, width: int, fps: float) -> Camera:
        """The camera of every frame."""
        eye, target = np.array(self.eye), np.array(self.target)
        if self.path is None:
            return Camera.static(frames, height, width, eye=eye, target=target, fov=self.fov)
        return self.path.camera(frames, height, width, fps, eye=eye, target=target, fov=self.fov)

    def level_axes(self) -> np.ndarray:
        """World directions [3, 3] at t = 0, in rows: right, away (level, into the scene) and up."""
        return level_axes(np.array(self.eye), np.array(self.target))


@dataclass(frozen=True)
class Room:
    """A floor at z = 0 and a back wall at y = depth, with the directions in which their textures run."""

    floor: Colour
    wall: Colour
    depth: float
    texture_angle: float
    floor_texture: Texture = Texture.CHECKER
    wall_texture: Texture = Texture.PLAIN


@dataclass(frozen=True)
class Scene:
    """family: its name. event: what the first body does, to the others if there are any."""

    family: str
    event: Event
    bodies: tuple[Body, ...]
    room: Room
    view: View
    light: Light
    props: tuple[Prop, ...] = ()

    @property
    def rod_instances(self) -> dict[int, int]:
        """Instance of each rod, by the number of the body that hangs on it: after the bodies."""
        hanging = [number for number, body in enumerate(self.bodies) if body.rod is not None]
        return {number: FIRST_BODY + len(self.bodies) + i for i, number in enumerate(hanging)}

    @property
    def prop_instances(self) -> range:
        """Instances of the props: after the rods."""
        first = FIRST_BODY + len(self.bodies) + len(self.rod_instances)
        return range(first, first + len(self.props))

    def world_velocity(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Linear [3] m/s and angular [3] rad/s velocity of a body at t = 0, in world axes."""
        linear = np.array(body.velocity) @ self.view.level_axes()
        angular = np.zeros(3)
        if body.rod is not None:
            angular = np.cross(np.array(body.position) - body.pivot, linear) / body.rod.length**2
        elif body.rolling:
            angular = np.cross((0.0, 0.0, 1.0), linear) / body.size[0]
        elif body.topspin:
            angular = 2 * np.pi * body.topspin * np.cross((0.0, 0.0, 1.0), linear / np.linalg.norm(linear))
        if body.turning:
            angular = angular + np.array([0.0, 0.0, 2 * np.pi * body.turning])
        return linear, angular
