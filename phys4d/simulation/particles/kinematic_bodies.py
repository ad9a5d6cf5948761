"""Kinematic bodies: vessels and other solids that move on a prescribed path and push particles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.assembly import InstanceMesh
from phys4d.simulation.body import Colour
from phys4d.simulation.mesh_sequence import Texture, Track
from phys4d.simulation.particles.obstacles import Obstacle, Path, Solid


@dataclass(frozen=True)
class KinematicBody:
    """One instance made of solids that move together on a prescribed path.

    name, rgb, texture: as in the caption, and its look.
    solids: in the frame that moves along the path.
    path: pose over time.
    physics: entries of the clip's json; SI units.
    """

    name: str
    rgb: Colour
    texture: Texture
    solids: tuple[Solid, ...]
    path: Path
    physics: Mapping[str, Any] = field(default_factory=dict)

    def obstacle(self) -> Obstacle:
        """The body as an obstacle for particles."""
        return Obstacle(self.solids, self.path)

    def outline(self) -> np.ndarray:
        """World points [V, 3] of its surface at t = 0, metres."""
        rest, _ = self._mesh(1)
        return self._track(1, 1.0).apply(rest)[0]

    def instance_mesh(self, instance: int, frames: int, fps: float, detail: int) -> InstanceMesh:
        """Its mesh over time."""
        rest, faces = self._mesh(detail)
        track = self._track(frames, fps)
        return InstanceMesh(track.apply(rest), faces, rest, instance, self.rgb, self.texture, track)

    def about(self, instance: int) -> dict[str, Any]:
        """Its json entry."""
        return {
            "instance": instance,
            "name": self.name,
            "colour": list(self.rgb),
            "dynamic": False,
            "prescribed": True,
            **self.physics,
        }

    def _track(self, frames: int, fps: float) -> Track:
        poses = [self.path(frame / fps) for frame in range(frames)]
        return Track(np.array([position for position, _ in poses]), np.array([quaternion for _, quaternion in poses]))

    def _mesh(self, detail: int) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [V, 3] in its own frame, metres, and faces [F, 3]."""
        vertices, faces, count = [], [], 0
        for solid in self.solids:
            points, triangles = shapes.mesh(solid.shape, solid.size, detail)
            pose = Track(np.array([solid.position]), np.array([solid.quaternion]))
            vertices.append(pose.apply(points)[0])
            faces.append(triangles + count)
            count += len(points)
        return np.concatenate(vertices), np.concatenate(faces)
