"""The mesh sequence: the interface between any simulator and the renderer, moving triangles with fixed topology."""

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from phys4d.simulation.smoke.smoke_volume import SmokeVolume

Array = np.ndarray


class Texture(IntEnum):
    """Procedural surface patterns; the renderer evaluates them at rest coordinates."""

    PLAIN = 0
    CHECKER = 1
    BANDS = 2
    GRAIN = 3
    METAL = 4
    SPECKLE = 5
    MARBLE = 6
    DOTS = 7
    PLANKS = 8
    TILES = 9
    CONCRETE = 10
    CARPET = 11
    BRICK = 12
    PLASTER = 13
    STRIPES = 14
    WEAVE = 15
    KNIT = 16
    FOAM = 17
    TWIST = 18
    JELLY = 19
    LATEX = 20
    GRIT = 21
    WATER = 22
    GLOW = 23


@dataclass(frozen=True)
class Track:
    """Pose of one rigid instance over time: the transform from rest coordinates to the world.

    position: float64 [T, 3], metres.
    quaternion: float64 [T, 4], (w, x, y, z), unit length.
    """

    position: Array
    quaternion: Array

    def rotation(self) -> Array:
        """Rotation matrices, float64 [T, 3, 3]."""
        return np.moveaxis(rotation(self.quaternion.T), -1, 0)

    def apply(self, rest: Array) -> Array:
        """World positions [T, N, 3] of rest points [N, 3], metres."""
        return rest @ self.rotation().transpose(0, 2, 1) + self.position[:, None]


def rotation(quaternion: Array) -> Array:
    """Rotation matrices [3, 3, ...] of quaternions [4, ...] (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@dataclass(frozen=True)
class MeshSequence:
    """Moving triangles with fixed topology.

    vertices: float64 [T, V, 3], world metres.
    faces: int32 [F, 3], indices of vertices.
    instance: uint8 [F], 1..255; 0 is reserved for "no surface".
    rest: float64 [V, 3], metres, coordinates at which textures are evaluated; they are fixed to the material.
    colour: float32 [V, 3] in 0..1, or [T, V, 3] if it changes over time.
    texture: uint8 [V], a `Texture`.
    tracks: pose of each rigid instance; `tracks[i].apply(rest)` are its vertices.
    smoke: smoke in front of the surfaces, or None.
    turns: bool [V], vertices whose normal may change; None for all. No face has some of both.

    Raises ValueError if shapes or dtypes do not match or a vertex is not finite.
    """

    vertices: Array
    faces: Array
    instance: Array
    rest: Array
    colour: Array
    texture: Array
    tracks: dict[int, Track] = field(default_factory=dict)
    smoke: "SmokeVolume | None" = None
    turns: Array | None = None

    def __post_init__(self) -> None:
        frames, count = self.vertices.shape[:2]
        expected = {
            "vertices": ((frames, count, 3), np.float64),
            "faces": ((len(self.faces), 3), np.int32),
            "instance": ((len(self.faces),), np.uint8),
            "rest": ((count, 3), np.float64),
            "colour": ((frames, count, 3) if self.colour.ndim == 3 else (count, 3), np.float32),
            "texture": ((count,), np.uint8),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                found, wanted = f"{array.dtype}{list(array.shape)}", f"{np.dtype(dtype)}{list(shape)}"
                raise ValueError(f"{name}: {found}, expected {wanted}")
        if not np.isfinite(self.vertices).all():
            raise ValueError("vertices: not all finite")
        if self.faces.size and not 0 <= self.faces.min() <= self.faces.max() < count:
            raise ValueError(f"faces: indices outside 0..{count - 1}")
        if self.instance.size and self.instance.min() == 0:
            raise ValueError("instance: 0 is kept for 'no surface'; number instances from 1")

    @property
    def frames(self) -> int:
        return len(self.vertices)

    def normals(self, t: int) -> Array:
        """Area-weighted unit normals of the vertices in frame t, float32 [V, 3]; smooth across faces that share
        vertices.
        """
        if self.turns is None:
            return self._normals(t, self.faces, self._around)
        normals = self._first_normals.copy()
        normals[self.turns] = self._normals(t, self._turning_faces, self._around_turning)
        return normals

    def _normals(self, t: int, faces: Array, around: Array) -> Array:
        """As `normals`, for some vertices with the numbers of the faces around each of them [N, degree]."""
        a, b, c = (self.vertices[t, faces[:, corner]] for corner in range(3))
        area_normal = np.cross(b - a, c - a)
        padded = np.concatenate([area_normal, np.zeros((1, 3))])
        total = padded[around].sum(axis=1)
        length = np.linalg.norm(total, axis=-1, keepdims=True)
        return (total / np.maximum(length, 1e-30)).astype(np.float32)

    @cached_property
    def _first_normals(self) -> Array:
        return self._normals(0, self.faces, self._around)

    @cached_property
    def _turning_faces(self) -> Array:
        assert self.turns is not None
        return self.faces[self.turns[self.faces[:, 0]]]

    @cached_property
    def _around_turning(self) -> Array:
        assert self.turns is not None
        return _faces_around(self._turning_faces, self.vertices.shape[1])[self.turns]

    @cached_property
    def _around(self) -> Array:
        return _faces_around(self.faces, self.vertices.shape[1])


def _faces_around(faces: Array, vertices: int) -> Array:
    """Faces around each vertex, int [V, largest degree], padded with F (one past the last face)."""
    corners = faces.ravel()
    order = np.argsort(corners, kind="stable")
    degree = np.bincount(corners, minlength=vertices)
    start = np.cumsum(degree) - degree
    table = np.full((len(degree), max(int(degree.max(initial=0)), 1)), len(faces))
    rank = np.arange(len(corners)) - np.repeat(start, degree)
    table[corners[order], rank] = order // 3
    return table
