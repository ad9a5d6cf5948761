"""Obstacles for particles: solids of simple shapes, static or on a prescribed path."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.assets import AssetMesh
from phys4d.simulation.body import Body, Prop, Shape
from phys4d.simulation.mesh_sequence import Track, rotation
from phys4d.simulation.scene import Room

Pose = tuple[np.ndarray, np.ndarray]  # position [3] in metres, quaternion [4] (w, x, y, z)
Path = Callable[[float], Pose]  # pose at a time in seconds

DETAIL = 3  # subdivision level of round shapes, independent of the image size
# Metres by which a solid that stands on the floor is extended below it, so that no particle is pushed out downwards.
DEPTH_BELOW_FLOOR = 0.25
REACH = 4.5  # metres from the middle of the room to the edges of floor and walls as obstacles


@dataclass(frozen=True)
class Solid:
    """One convex solid.

    shape, size: as for `shapes.mesh`.
    position: [3], metres, in the world or in the frame of its kinematic body.
    quaternion: [4], (w, x, y, z).
    friction: Coulomb coefficient.
    asset: the mesh whose convex hull it is, if the shape is "mesh"; without it that is the box of half extents `size`.
    """

    shape: Shape
    size: tuple[float, ...]
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    friction: float = 0.0
    asset: AssetMesh | None = None

    @staticmethod
    def of(thing: Body | Prop) -> "Solid":
        """A body where it is at t = 0, or a prop."""
        return Solid(thing.shape, thing.size, thing.position, thing.quaternion, thing.friction, thing.asset)

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Closed mesh in the frame that the solid is given in: vertices float64 [V, 3] in metres, faces int32 [F, 3].
        """
        if self.asset is None:
            vertices, faces = shapes.mesh(self.shape, self.size, DETAIL)
        else:
            vertices, faces = self.asset.hull, self.asset.hull_faces
        placed = Track(np.array([self.position]), np.array([self.quaternion])).apply(vertices)[0]
        # `shapes.mesh` splits vertices at hard edges; collision needs a closed mesh, so they are merged.
        welded, which = np.unique(np.round(placed, 9), axis=0, return_inverse=True)
        return welded, which.ravel()[faces].astype(np.int32)

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Depth in metres of points [N, 3] below its surface, float64 [N]; negative outside (a lower bound)."""
        local = (points - np.array(self.position)) @ rotation(np.array(self.quaternion))
        if self.shape == "ball":
            return self.size[0] - np.linalg.norm(local, axis=1)
        if self.asset is not None:
            return self.asset.depth(local)
        if self.shape in ("box", "mesh"):
            return (np.array(self.size) - np.abs(local)).min(axis=1)
        radius, half = self.size
        if self.shape == "cylinder":
            return np.minimum(radius - np.hypot(local[:, 0], local[:, 1]), half - np.abs(local[:, 2]))
        local[:, 2] -= np.clip(local[:, 2], -half, half)
        return radius - np.linalg.norm(local, axis=1)


@dataclass(frozen=True)
class Obstacle:
    """Solids that move together.

    solids: in their common frame.
    path: pose of their common frame over time, None if static in the world.
    """

    solids: tuple[Solid, ...]
    path: Path | None = None

    def pose(self, time: float) -> Pose:
        """Pose of the common frame at `time` in seconds."""
        return (np.zeros(3), np.array([1.0, 0, 0, 0])) if self.path is None else self.path(time)

    def depth(self, points: np.ndarray, time: float) -> np.ndarray:
        """Depth in metres of points [N, 3] inside at `time` in seconds, float64 [N]; negative outside."""
        position, quaternion = self.pose(time)
        local = (points - position) @ rotation(quaternion)
        return np.max([solid.depth(local) for solid in self.solids], axis=0)


def obstacle_from_prop(prop: Prop) -> Obstacle:
    """A prop as an obstacle."""
    return Obstacle(
        (_extended_below_floor(Solid.of(prop)),)
    )


def obstacles_from_room(room: Room, friction: float) -> list[Obstacle]:
    """Floor and walls of a room as thick obstacles, with one Coulomb coefficient of friction."""
    floor = Solid("box", (REACH, REACH, 0.5), (0.0, 0.0, -0.5), friction=friction)
    obstacles = [Obstacle((floor,))]
    for point, normal in room.walls().values():
        x, y, z = (p - 0.5 * n for p, n in zip(point, normal, strict=True))
        size = (0.5, REACH, REACH) if normal[0] else (REACH, 0.5, REACH)
        obstacles.append(Obstacle((Solid("box", size, (x, y, z), friction=friction),)))
    return obstacles


def _extended_below_floor(solid: Solid) -> Solid:
    """An upright box or cylinder on the floor, extended below the floor; other solids unchanged."""
    upright = abs(rotation(np.array(solid.quaternion))[2, 2]) > 1 - 1e-9
    if solid.shape not in ("box", "cylinder") or not upright or abs(solid.position[2] - solid.size[-1]) > 1e-6:
        return solid
    x, y, z = solid.position
    size = (*solid.size[:-1], solid.size[-1] + DEPTH_BELOW_FLOOR / 2)
    return replace(solid, size=size, position=(x, y, z - DEPTH_BELOW_FLOOR / 2))
