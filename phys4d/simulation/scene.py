"""A scene as drawn by a family: what stands where at t = 0, and how it plays from there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.simulation.body import Body, Colour, Prop
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.stage.camera import Camera
from phys4d.simulation.stage.camera_path import CameraPath, level_axes

FLOOR, WALL, FIRST_BODY = 1, 2, 3
GRAVITY = 9.81


class Unusable(Exception):
    """The draw does not show what its caption says: it is drawn again. The text is a short phrase, without numbers."""


class Unstable(Unusable):
    """The simulator failed: it warned, left what is finite, let things pass through each other or gain energy."""


@dataclass(frozen=True)
class Light:
    """A sun with one direction (world, towards the scene) and ambient light; strengths without unit.

    focus: world point in metres around which shadows are cast. softness: width of a shadow's edge over the distance
    to what casts it, 0 for a sharp one. sun and sky: colours of the two lights.
    fill: direction (world, towards the scene) of a second light without shadows, and its colour times its strength.
    bounce: colour of the light that the floor throws back up, times its strength.
    """

    direction: tuple[float, float, float]
    focus: tuple[float, float, float]
    strength: float
    ambient: float
    softness: float = 0.0
    sun: Colour = (1.0, 1.0, 1.0)
    sky: Colour = (1.0, 1.0, 1.0)
    fill: tuple[float, float, float] = (0.0, 0.0, -1.0)
    fill_colour: Colour = (0.0, 0.0, 0.0)
    bounce: Colour = (0.0, 0.0, 0.0)


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


@dataclass(frozen=True, kw_only=True)
class Scene(ABC):
    """What every scene has: a room with props, a view of it, light; and how it plays.

    family: its name. props: scenery that never moves; their instances come after all others.
    """

    family: str
    room: Room
    view: View
    light: Light
    props: tuple[Prop, ...] = ()

    @property
    @abstractmethod
    def category(self) -> str:
        """The kind of physics."""

    @abstractmethod
    def sentence(self) -> str:
        """What happens, as the caption says it, without what the camera does."""

    @abstractmethod
    def badly_framed(self) -> bool:
        """Whether the first frame cuts off what it should show; asked before anything is simulated."""

    @abstractmethod
    def perform(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """Everything in the room over time, sampled at `fps` from t = 0; detail: how fine round shapes are made.

        Raises Unusable when the event does not show, Unstable when the simulator failed.
        """

    @abstractmethod
    def objects(self) -> list[dict[str, Any]]:
        """What a clip's json says about each instance from FIRST_BODY on, without the props; SI units."""

    def parameters(self) -> dict[str, Any]:
        """Physical parameters of the scene as a whole for a clip's json; SI units."""
        return {"gravity": GRAVITY}

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
