"""A MuJoCo scene with grains, each drawn as a ball of few faces."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject, Surface


@dataclass(frozen=True, kw_only=True)
class GrainScene(MujocoScene):
    """A scene with grains.

    grains: name of the scene object that consists of grains.
    """

    grains: str

    def surface(self, scene_object: SceneObject, rollout: Rollout, detail: int) -> Surface:
        """See `MujocoScene.surface`."""
        if scene_object.name != self.grains:
            return super().surface(scene_object, rollout, detail)
        points, faces = grain_mesh(detail)
        radii = np.array([rollout.model.geom(name).size[0] for name in scene_object.geoms])
        position = np.stack([rollout.geoms[name].position for name in scene_object.geoms], axis=1)
        turn = rotation(np.stack([rollout.geoms[name].quaternion for name in scene_object.geoms]).transpose(2, 1, 0))
        local = radii[:, None, None] * points
        vertices = np.einsum("nvj,ijtn->tnvi", local, turn) + position[:, :, None]
        frames, count = position.shape[:2]
        shade = np.repeat(np.array(scene_object.shades), len(points))
        every = (faces + len(points) * np.arange(count)[:, None, None]).reshape(-1, 3)
        # Texture coordinates are positions in the first frame, so that each grain shows another part of the pattern.
        vertices = vertices.reshape(frames, -1, 3)
        return Surface(vertices, every, vertices[0], shade)


@cache
def grain_mesh(detail: int) -> shapes.Mesh:
    """A unit ball of 32 faces, enough for a few pixels; of 80 faces if `detail` is above 3."""
    if detail > 3:
        return shapes.icosphere(1)
    corners = np.concatenate([np.eye(3), -np.eye(3)])
    middles = np.array([corners[i] + corners[j] for i in range(6) for j in range(i) if i != j + 3]) * np.sqrt(0.5)
    points = np.concatenate([corners, middles])
    number = {tuple(np.round(middle, 3)): 6 + k for k, middle in enumerate(middles)}
    faces = []
    for x, y, z in ((sx, sy, sz) for sx in (0, 3) for sy in (1, 4) for sz in (2, 5)):
        xy, yz, zx = (
            number[tuple(np.round((corners[p] + corners[q]) * np.sqrt(0.5), 3))] for p, q in ((x, y), (y, z), (z, x))
        )
        some = [(x, xy, zx), (xy, y, yz), (zx, yz, z), (xy, yz, zx)]
        outward = np.linalg.det(corners[[x, y, z]]) > 0
        faces += [face if outward else face[::-1] for face in some]
    return points, np.array(faces, dtype=np.int32)
