"""Joins the meshes of the room, the props and the moving instances of a scene into one mesh sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.scene import FLOOR, WALL, Room, Scene

CEILING = 0.5  # of the way from the wall's colour to white


@dataclass(frozen=True)
class InstanceMesh:
    """The mesh of one instance over time.

    vertices: float64 [T, V, 3], world metres, or [V, 3] if the instance is static.
    faces: int [F, 3], indices of vertices.
    rest: float64 [V, 3], metres, the coordinates at which the texture is evaluated.
    instance: number of the instance, 1 to 255.
    colour: RGB in 0..1: one for the instance, one for each vertex [V, 3], or one for each vertex and frame [T, V, 3].
    track: pose of a rigid instance over time; then `track.apply(rest)` equals vertices.
    turns: its faces turn or change shape; False for parts that only shift, whose normals stay.
    """

    vertices: np.ndarray
    faces: np.ndarray
    rest: np.ndarray
    instance: int
    colour: tuple[float, float, float] | np.ndarray
    texture: Texture
    track: Track | None = None
    turns: bool = True


def assemble(scene: Scene, parts: Sequence[InstanceMesh], frames: int, detail: int) -> MeshSequence:
    """Joins instance meshes with the scene's room and props into one mesh sequence.

    The instances are numbered: 1 floor, 2 walls and ceiling, then `parts` as they are numbered, then the props.

    scene: its room and props are used.
    parts: meshes of the moving instances.
    frames: T, number of frames.
    detail: subdivision level of round props, see `shapes.mesh`.
    """
    instance = max((part.instance for part in parts), default=WALL)
    props = []
    for number, prop in enumerate(scene.props, start=instance + 1):
        rest, faces = prop.mesh(detail)
        pose = Track(np.array([prop.position]), np.array([prop.quaternion]))
        props.append(InstanceMesh(pose.apply(rest)[0], faces, rest, number, prop.rgb, prop.texture))
    return _join([*_room_meshes(scene.room), *parts, *props], frames)


def _room_meshes(room: Room) -> list[InstanceMesh]:
    """Floor, walls and ceiling, which leave no gap; texture coordinates of walls are (along, up, into the wall)."""
    wide, deep, high = np.diag([room.left + room.right, room.front + room.depth, room.height])
    corner = np.array([-room.left, -room.front, 0.0])
    vertices, faces = shapes.rectangle(corner, wide, deep)
    c, s = np.cos(room.texture_angle), np.sin(room.texture_angle)
    turned = vertices @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    meshes = [InstanceMesh(vertices, faces, turned, FLOOR, room.floor, room.floor_texture)]
    walls = [(corner + deep, wide, [0, 2, 1]), (corner, deep, [1, 2, 0])]
    walls += [(corner + wide + deep, -deep, [1, 2, 0]), (corner + wide, -wide, [0, 2, 1])]
    for start, along, axes in walls:
        vertices, faces = shapes.rectangle(start, along, high)
        meshes.append(InstanceMesh(vertices, faces, vertices[:, axes], WALL, room.wall, room.wall_texture))
    vertices, faces = shapes.rectangle(corner + high, deep, wide)
    red, green, blue = (value + CEILING * (1 - value) for value in room.wall)
    return [*meshes, InstanceMesh(vertices, faces, vertices, WALL, (red, green, blue), Texture.PLAIN)]


def _join(parts: list[InstanceMesh], frames: int) -> MeshSequence:
    count = [len(p.rest) for p in parts]
    offset = np.cumsum([0, *count[:-1]])
    return MeshSequence(
        vertices=np.concatenate([np.broadcast_to(p.vertices, (frames, len(p.rest), 3)) for p in parts], axis=1),
        faces=np.concatenate([p.faces + o for p, o in zip(parts, offset, strict=True)]).astype(np.int32),
        instance=np.concatenate([np.full(len(p.faces), p.instance, dtype=np.uint8) for p in parts]),
        rest=np.concatenate([p.rest for p in parts]),
        colour=_colours(parts, frames),
        texture=np.repeat(np.array([p.texture for p in parts], dtype=np.uint8), count),
        tracks={p.instance: p.track for p in parts if p.track is not None},
        turns=np.repeat(np.array([p.turns and p.vertices.ndim == 3 for p in parts]), count),
    )


def _colours(parts: list[InstanceMesh], frames: int) -> np.ndarray:
    """float32 [V, 3], or [T, V, 3] if the colour of any instance changes over time."""
    colours = [np.asarray(part.colour, dtype=np.float32) for part in parts]
    lead = (frames,) if any(colour.ndim == 3 for colour in colours) else ()
    each = [np.broadcast_to(c, (*lead, len(p.rest), 3)) for c, p in zip(colours, parts, strict=True)]
    return np.concatenate(each, axis=-2)
