"""A scene as sampled by a family: its state at t = 0 and how to simulate it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phys4d.simulation.body import Body, Colour, Prop, Thing
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.scenery.camera_path import CameraPath, level_axes

if TYPE_CHECKING:
    from phys4d.simulation.mujoco_scenes.recording import Recording

FLOOR, WALL, FIRST_BODY = 1, 2, 3
GRAVITY = 9.81


class Unusable(Exception):
    """The event of the caption is not visible in this sample, which is rejected. The message is a short phrase without
    numbers.
    """


class Unstable(Unusable):
    """The simulator failed: a warning, a non-finite state, interpenetration, or growing energy."""


@dataclass(frozen=True)
class Light:
    """A sun with one direction, ambient light, a second lamp without shadows and light reflected by the floor.

    direction: [3], world direction of the sun's light, towards the scene.
    focus: [3], world metres, centre of the region with shadows.
    strength, ambient: brightness of sun and ambient light, without unit.
    softness: width of a shadow's edge divided by the distance to the object that casts it; 0 for sharp shadows.
    sun, sky: RGB of sun and ambient light.
    fill: [3], world direction of the second lamp's light, towards the scene.
    fill_colour: RGB of the second lamp times its strength.
    bounce: RGB of the light reflected upwards by the floor, times its strength.
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
    """A camera: where it is, where it looks, and how it moves.

    eye, target: [3], world metres at t = 0.
    fov: degrees across the smaller image side.
    path: motion of the camera, None if static.
    """

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
        """World directions [3, 3] in rows, at t = 0: right, away (level, into the scene), up."""
        return level_axes(np.array(self.eye), np.array(self.target))


@dataclass(frozen=True)
class Room:
    """A closed room: floor at z = 0, back wall at y = depth, three more walls and a ceiling.

    floor, wall: RGB.
    depth: metres from the middle of the scene to the back wall, into which some scenes mount bars.
    texture_angle: radians by which the floor's texture is rotated.
    floor_texture, wall_texture: patterns.
    left, right, front: metres from the middle of the scene to the walls at x = -left, x = right and y = -front.
    height: metres of the ceiling above the floor.
    """

    floor: Colour
    wall: Colour
    depth: float
    texture_angle: float
    floor_texture: Texture = Texture.CHECKER
    wall_texture: Texture = Texture.PLAIN
    left: float = 3.0
    right: float = 3.0
    front: float = 3.2
    height: float = 2.8

    def walls(self) -> dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]:
        """Name of each wall -> a point on it, world metres, and its normal into the room."""
        return {
            "wall": ((0.0, self.depth, 0.0), (0.0, -1.0, 0.0)),
            "wall_left": ((-self.left, 0.0, 0.0), (1.0, 0.0, 0.0)),
            "wall_right": ((self.right, 0.0, 0.0), (-1.0, 0.0, 0.0)),
            "wall_front": ((0.0, -self.front, 0.0), (0.0, 1.0, 0.0)),
        }

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Distance in metres of points [N, 3] from the nearest wall, floor or ceiling, float64 [N]; negative outside.
        """
        low = points - np.array([-self.left, -self.front, 0.0])
        high = np.array([self.right, self.depth, self.height]) - points
        return np.minimum(low, high).min(axis=1)


@dataclass(frozen=True, kw_only=True)
class Scene(ABC):
    """Base of all scenes: room, props, view and light, and how the scene is simulated.

    family: name of the family.
    props: static objects; their instances follow all others.
    later: bodies of later events, see `later`; their instances follow those of the event.
    clutter: things that stand around, see `scenery.clutter`; the last props are their parts.
    """

    family: str
    room: Room
    view: View
    light: Light
    props: tuple[Prop, ...] = ()
    later: tuple[Body, ...] = ()
    clutter: tuple[Thing, ...] = ()

    @property
    @abstractmethod
    def category(self) -> str:
        """The category of physics."""

    @abstractmethod
    def sentence(self) -> str:
        """The caption without the camera's motion."""

    @abstractmethod
    def badly_framed(self) -> bool:
        """Whether the first frame cuts off something that the clip should show; checked before simulating."""

    @abstractmethod
    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """Simulates the scene and returns all its meshes over time, sampled at `fps` from t = 0.

        frames: T, number of frames.
        fps: frames per second.
        detail: subdivision level of round shapes, see `shapes.mesh`.

        Raises Unusable if the event is not visible, Unstable if the simulator failed.
        """

    def record(self, frames: int, fps: float) -> "Recording | None":
        """Contacts and velocities of the same simulation, which is run once more; None where MuJoCo does not run it."""
        return None

    @abstractmethod
    def lasting(self, seconds: float, rng: np.random.Generator) -> "Scene":
        """The scene with later events, so that something moves until the end of a long clip.

        seconds: length of the clip.
        rng: random generator of the later events.

        Raises Unusable if there is no place for them.
        """

    def with_props(self, props: Sequence[Prop]) -> "Scene":
        """The scene with more props, after those that it has."""
        return replace(self, props=(*self.props, *props))

    def event_frames(self, frames: int, fps: float) -> int:
        """Number of frames of a clip until its first later event."""
        first = min((body.held_until for body in self.later), default=np.inf)
        return int(min(frames, first * fps + 1))

    @abstractmethod
    def objects(self) -> list[dict[str, Any]]:
        """The json entry of each instance from FIRST_BODY on, without the props; SI units."""

    def parameters(self) -> dict[str, Any]:
        """Physical parameters of the whole scene for the clip's json; SI units."""
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
