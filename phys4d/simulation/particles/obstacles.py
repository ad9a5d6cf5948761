"""What particles flow around: solid bodies of the simple shapes, at rest or on a prescribed path."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Prop, Shape
from phys4d.simulation.mesh_sequence import Track, rotation

Pose = tuple[np.ndarray, np.ndarray]  # position [3] in metres, quaternion [4] (w, x, y, z)
Path = Callable[[float], Pose]  # pose at a time in seconds

DETAIL = 3  # of round shapes; the same for pictures of any size
SUNK = 0.25  # metres by which what stands on the floor reaches into it, so that nothing is pushed out downwards
REACH = 4.0  # metres from the middle of the room over which its floor and wall hold particles back


@dataclass(frozen=True)
class Solid:
    """One convex body; size: see `shapes.mesh`. position and quaternion: in the world, or in the frame of its mover."""

    shape: Shape
    size: tuple[float, ...]
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    friction: float = 0.0

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices float64 [V, 3] in the frame that the solid is in and faces int32 [F, 3], closed."""
        vertices, faces = shapes.mesh(self.shape, self.size, DETAIL)
        placed = Track(np.array([self.position]), np.array([self.quaternion])).apply(vertices)[0]
        # What is drawn is split at hard edges; what is collided with must be closed.
        welded, which = np.unique(np.round(placed, 9), axis=0, return_inverse=True)
        return welded, which.ravel()[faces].astype(np.int32)

    def depth(self, points: np.ndarray) -> np.ndarray:
        """How deep points [N, 3] are below its surface in metres, float64 [N]; negative outside (a lower bound)."""
        local = (points - np.array(self.position)) @ rotation(np.array(self.quaternion))
        if self.shape == "ball":
            return self.size[0] - np.linalg.norm(local, axis=1)
        if self.shape == "box":
            return (np.array(self.size) - np.abs(local)).min(axis=1)
        radius, half = self.size
        if self.shape == "cylinder":
            return np.minimum(radius - np.hypot(local[:, 0], local[:, 1]), half - np.abs(local[:, 2]))
        local[:, 2] -= np.clip(local[:, 2], -half, half)
        return radius - np.linalg.norm(local, axis=1)


@dataclass(frozen=True)
class Obstacle:
    """Solids that move together; path: pose of their frame over time, None for what rests in the world."""

    solids: tuple[Solid, ...]
    path: Path | None = None

    def pose(self, time: float) -> Pose:
        """Where its frame is at a time in seconds."""
        return (np.zeros(3), np.array([1.0, 0, 0, 0])) if self.path is None else self.path(time)

    def depth(self, points: np.ndarray, time: float) -> np.ndarray:
        """How deep points [N, 3] are inside in metres, float64 [N]; negative outside."""
        position, quaternion = self.pose(time)
        local = (points - position) @ rotation(quaternion)
        return np.max([solid.depth(local) for solid in self.solids], axis=0)


def of_prop(prop: Prop) -> Obstacle:
    """A prop as an obstacle."""
    return Obstacle((_sunk(Solid(prop.shape, prop.size, prop.position, prop.quaternion, prop.friction)),))


def of_room(depth: float, friction: float) -> list[Obstacle]:
    """The floor and the wall at y = `depth`, thick."""
    floor = Solid("box", (REACH, REACH, 0.5), (0.0, 0.0, -0.5), friction=friction)
    wall = Solid("box", (REACH, 0.5, REACH), (0.0, depth + 0.5, 0.0), friction=friction)
    return [Obstacle((floor,)), Obstacle((wall,))]


def _sunk(solid: Solid) -> Solid:
    """An upright box or cylinder that stands on the floor, as if it went on below."""
    upright = abs(rotation(np.array(solid.quaternion))[2, 2]) > 1 - 1e-9
    if solid.shape not in ("box", "cylinder") or not upright or abs(solid.position[2] - solid.size[-1]) > 1e-6:
        return solid
    x, y, z = solid.position
    size = (*solid.size[:-1], solid.size[-1] + SUNK / 2)
    return replace(solid, size=size, position=(x, y, z - SUNK / 2))
