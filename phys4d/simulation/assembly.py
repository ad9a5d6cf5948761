"""Puts the meshes of a scene's room, props and bodies together and moves them along the bodies' tracks."""

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.materials import MATERIALS
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.scene import FIRST_BODY, FLOOR, WALL, Rod, Room, Scene

ROOM_REACH = 6.0  # metres


def meshes(scene: Scene, tracks: dict[int, Track], detail: int = 3) -> MeshSequence:
    """The scene as a mesh sequence: instance 1 is the floor, 2 the wall, 3... the bodies, then rods, then props."""
    frames = len(next(iter(tracks.values())).position)
    parts = [_Part(*floor_mesh(scene.room), FLOOR, scene.room.floor, scene.room.floor_texture)]
    parts.append(_Part(*wall_mesh(scene.room), WALL, scene.room.wall, scene.room.wall_texture))
    for number, body in enumerate(scene.bodies):
        instance = FIRST_BODY + number
        rest, faces = shapes.mesh(body.shape, body.size, detail)
        texture = MATERIALS[body.material].texture
        parts.append(_Part(tracks[instance].apply(rest), faces, rest, instance, body.rgb, texture))
    rod_tracks = {}
    for number, instance in scene.rod_instances.items():
        rod = scene.bodies[number].rod
        assert rod is not None
        rest, faces = shapes.mesh("cylinder", (rod.radius, rod.length / 2), detail)
        rod_tracks[instance] = _along(rod, tracks[FIRST_BODY + number])
        parts.append(_Part(rod_tracks[instance].apply(rest), faces, rest, instance, rod.rgb, Texture.PLAIN))
    for prop, instance in zip(scene.props, scene.prop_instances, strict=True):
        rest, faces = shapes.mesh(prop.shape, prop.size, detail)
        pose = Track(np.array([prop.position]), np.array([prop.quaternion]))
        parts.append(_Part(pose.apply(rest)[0], faces, rest, instance, prop.rgb, prop.texture))
    return _join(parts, frames, tracks | rod_tracks)


def _along(rod: Rod, body: Track) -> Track:
    """The pose of the rod's middle, half its length from the body's centre along the body's z axis."""
    return Track(body.position + rod.length / 2 * body.rotation()[:, :, 2], body.quaternion)


class _Part:
    """One instance's share of the mesh."""

    def __init__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        rest: np.ndarray,
        instance: int,
        colour: tuple[float, float, float],
        texture: Texture,
    ) -> None:
        self.vertices, self.faces, self.rest = vertices, faces, rest
        self.instance, self.colour, self.texture = instance, colour, texture


def floor_mesh(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World vertices, faces and texture coordinates of the floor, from far before the camera to the wall."""
    corner = np.array([-ROOM_REACH, -ROOM_REACH, 0])
    vertices, faces = shapes.rectangle(
        corner, np.array([2 * ROOM_REACH, 0, 0]), np.array([0, room.depth + ROOM_REACH, 0])
    )
    c, s = np.cos(room.texture_angle), np.sin(room.texture_angle)
    return vertices, faces, vertices @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def wall_mesh(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World vertices, faces and texture coordinates of the back wall."""
    corner = np.array([-ROOM_REACH, room.depth, 0])
    vertices, faces = shapes.rectangle(corner, np.array([2 * ROOM_REACH, 0, 0]), np.array([0, 0, ROOM_REACH]))
    return vertices, faces, vertices[:, [0, 2, 1]]


def _join(parts: list[_Part], frames: int, tracks: dict[int, Track]) -> MeshSequence:
    count = [len(p.rest) for p in parts]
    offset = np.cumsum([0, *count[:-1]])
    return MeshSequence(
        vertices=np.concatenate([np.broadcast_to(p.vertices, (frames, len(p.rest), 3)) for p in parts], axis=1),
        faces=np.concatenate([p.faces + o for p, o in zip(parts, offset, strict=True)]).astype(np.int32),
        instance=np.concatenate([np.full(len(p.faces), p.instance, dtype=np.uint8) for p in parts]),
        rest=np.concatenate([p.rest for p in parts]),
        colour=np.repeat(np.array([p.colour for p in parts], dtype=np.float32), count, axis=0),
        texture=np.repeat(np.array([p.texture for p in parts], dtype=np.uint8), count),
        tracks=tracks,
    )
