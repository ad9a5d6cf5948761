"""Keeps a camera inside the room, and off everything in it, for the whole clip."""

from dataclasses import replace

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import WALL, Scene, Unusable
from phys4d.simulation.scenery import camera_path
from phys4d.simulation.scenery.camera import Camera

FREE = 0.2  # metres from the camera to the nearest wall, floor, ceiling or surface
PATHS = 30  # paths that are sampled until one stays in the room
CHECKED = 24  # times of a path at which it is checked before its clip is simulated
LONG_EDGE = 0.05  # metres; of faces with shorter edges only the vertices are tested


def with_free_path(scene: Scene, rng: np.random.Generator, seconds: float) -> Scene:
    """The scene with the first of PATHS sampled camera paths that stays in the room, or else with the last one.

    rng: samples the paths.
    seconds: duration of the clip.
    """
    for _ in range(PATHS):
        scene = replace(scene, view=replace(scene.view, path=camera_path.sample(rng)))
        if _stays_in_room(scene, scene.view.camera(CHECKED, 1, 1, CHECKED / seconds)):
            break
    return scene


def check_camera_is_free(scene: Scene, camera: Camera) -> None:
    """Raises Unusable if the camera comes nearer than FREE to a wall, the floor or the ceiling in some frame."""
    if not _stays_in_room(scene, camera):
        raise Unusable("the camera leaves the room")


def check_camera_keeps_off(meshes: MeshSequence, camera: Camera) -> None:
    """Raises Unusable if the camera comes nearer than FREE to a surface, other than the room's, in some frame."""
    faces = meshes.faces[meshes.instance > WALL]
    used, large = np.unique(faces), faces[_longest_edge(meshes.vertices[0], faces) > LONG_EDGE]
    for t, eye in enumerate(camera.camera_to_world[:, :3, 3]):
        near = np.linalg.norm(meshes.vertices[t, used] - eye, axis=1).min(initial=np.inf)
        if min(near, distances_to_triangles(eye, meshes.vertices[t, large]).min(initial=np.inf)) < FREE:
            raise Unusable("too close to the camera")


def distances_to_triangles(point: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distance in metres of a point [3] from each triangle [F, 3, 3], float64 [F]."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    sides = [(normal * np.cross(q - p, point - p)).sum(axis=1) for p, q in ((a, b), (b, c), (c, a))]
    above = (np.min(sides, axis=0) >= 0) & (length > 0)
    plane = np.abs(((point - a) * normal).sum(axis=1)) / np.where(length > 0, length, 1)
    edges = np.min([_distance_to_segment(point, p, q) for p, q in ((a, b), (b, c), (c, a))], axis=0)
    return np.where(above, plane, edges)


def _distance_to_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    way = end - start
    square = (way * way).sum(axis=1)
    share = np.clip(((point - start) * way).sum(axis=1) / np.where(square > 0, square, 1), 0, 1)
    return np.linalg.norm(start + share[:, None] * way - point, axis=1)


def _longest_edge(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    return np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1, initial=0)


def _stays_in_room(scene: Scene, camera: Camera) -> bool:
    return bool(scene.room.clearance(camera.camera_to_world[:, :3, 3]).min() >= FREE)
