"""Joins the meshes of the room, the props and the moving instances of a scene into one mesh sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.scene import FLOOR, WALL, Room, Scene

ROOM_REACH = 6.0  # metres


@dataclass(frozen=True)
class InstanceMesh:
    """The mesh of one instance over time.

    vertices: float64 [T, V, 3], world metres, or [V, 3] if the instance is static.
    faces: int [F, 3], indices of vertices.
    rest: float64 [V, 3], metres, the coordinates at which the texture is evaluated.
    instance: number of the instance, 1 to 255.
    colour: RGB in 0..1: one for the instance, one for each vertex [V, 3], or one for each vertex and frame [T, V, 3].
    track: pose of a rigid instance over time; then `track.apply(rest)` equals vertices.
    """

    vertices: np.ndarray
    faces: np.ndarray
    rest: np.ndarray
    instance: int
    colour: tuple[float, float, float] | np.ndarray
    texture: Texture
    track: Track | None = None


def assemble(scene: Scene, parts: Sequence[InstanceMesh], frames: int, detail: int) -> MeshSequence:
    """Joins instance meshes with the scene's room and props into one mesh sequence.

    The instances are numbered: 1 floor, 2 wall, then `parts` as they are numbered, then the props.

    scene: its room and props are used.
    parts: meshes of the moving instances.
    frames: T, number of frames.
    detail: subdivision level of round props, see `shapes.mesh`.
    """
    room = scene.room
    still = [InstanceMesh(*floor_mesh(room), FLOOR, room.floor, room.floor_texture)]
    still.append(InstanceMesh(*wall_mesh(room), WALL, room.wall, room.wall_texture))
    instance = max((part.instance for part in parts), default=WALL)
    props = []
    for number, prop in enumerate(scene.props, start=instance + 1):
        rest, faces = shapes.mesh(prop.shape, prop.size, detail)
        pose = Track(np.array([prop.position]), np.array([prop.quaternion]))
        props.append(InstanceMesh(pose.apply(rest)[0], faces, rest, number, prop.rgb, prop.texture))
    return _join([*still, *parts, *props], frames)


def floor_mesh(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floor rectangle: world vertices [4, 3] in metres, faces [2, 3], texture coordinates [4, 3] in metres."""
    corner = np.array([-ROOM_REACH, -ROOM_REACH, 0])
    vertices, faces = shapes.rectangle(
        corner, np.array([2 * ROOM_REACH, 0, 0]), np.array([0, room.depth + ROOM_REACH, 0])
    )
    c, s = np.cos(room.texture_angle), np.sin(room.texture_angle)
    return vertices, faces, vertices @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def wall_mesh(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Back wall rectangle: world vertices [4, 3] in metres, faces [2, 3], texture coordinates [4, 3] in metres."""
    corner = np.array([-ROOM_REACH, room.depth, 0])
    vertices, faces = shapes.rectangle(corner, np.array([2 * ROOM_REACH, 0, 0]), np.array([0, 0, ROOM_REACH]))
    return vertices, faces, vertices[:, [0, 2, 1]]


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
    )


def _colours(parts: list[InstanceMesh], frames: int) -> np.ndarray:
    """float32 [V, 3], or [T, V, 3] if the colour of any instance changes over time."""
    colours = [np.asarray(part.colour, dtype=np.float32) for part in parts]
    lead = (frames,) if any(colour.ndim == 3 for colour in colours) else ()
    each = [np.broadcast_to(c, (*lead, len(p.rest), 3)) for c, p in zip(colours, parts, strict=True)]
    return np.concatenate(each, axis=-2)
