"""A clip as plain arrays and numbers, from which another program renders its pictures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.simulation.cycles.materials import Surface, surface_of
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.scene import WALL, Light, Room, Scene
from phys4d.simulation.scenery.camera import Camera

NAMES = {1: "floor", 2: "wall"}
OPEN = 0.5  # share of the clips whose light comes from a sky through the ceiling; the others have lamps in the room
LAMP_SIDE, LAMP_GAP = 1.2, 0.02  # metres: side of the square lamp below the ceiling, and its distance from it
LAYER, LAYERS = 2e-5, 7  # metres between coplanar sides of boxes; a box has six, so that the same ones of two differ
KEY_DISTANCE = 2.0  # metres from the middle of the scene to the lamp that takes the place of the sun


@dataclass(frozen=True)
class Part:
    """The faces of one instance with one surface.

    instance: number.
    ceiling: whether it is the room's ceiling, which an open sky lights the room through.
    casts: whether it casts a shadow of the sun; the room does not, as in the raster path.
    surface: how it looks.
    vertices: float32 [T, V, 3], world metres, or [1, V, 3] if they are at rest.
    faces: int32 [F, 3], counterclockwise from outside.
    rest: float32 [V, 3], metres, at which the pattern is evaluated.
    colour: float32 [V, 3] or [T, V, 3] in 0..1, as the raster path draws it.
    """

    instance: int
    ceiling: bool
    casts: bool
    surface: Surface
    vertices: np.ndarray
    faces: np.ndarray
    rest: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Description:
    """A clip as a path tracer needs it.

    parts: all meshes.
    pose: float64 [T, 4, 4], camera to world with the axes right, up, backward, metres.
    lens: float64 [T, 3]: focal length over the image's width; shift of the principal point right and up, over it, too.
    height, width: pixels.
    lights: lamps: a sun, or areas that face along their direction, see `lights_of`.
    sky: zenith, horizon and ground colour, and cover of clouds 0 to 1; None in a closed room.
    """

    parts: list[Part]
    pose: np.ndarray
    lens: np.ndarray
    height: int
    width: int
    lights: list[dict[str, Any]]
    sky: dict[str, Any] | None

    @property
    def refracting(self) -> list[int]:
        """Instances that light passes through, where the picture shows what is behind them, too."""
        return sorted({part.instance for part in self.parts if part.surface.transmission})


def describe(scene: Scene, meshes: MeshSequence, camera: Camera, rng: np.random.Generator) -> Description:
    """Describes a clip.

    scene: its room, light and names. meshes, camera: of the clip. rng: random generator of sky and lamps.
    """
    fx, fy = camera.intrinsics[:, 0, 0], camera.intrinsics[:, 1, 1]
    if not np.array_equal(fx, fy):
        raise ValueError("intrinsics: expected square pixels")
    w, h = camera.width, camera.height
    lens = np.stack([fx / w, (w / 2 - camera.intrinsics[:, 0, 2]) / w, (camera.intrinsics[:, 1, 2] - h / 2) / w], 1)
    sky = _sky(scene.light, rng) if rng.uniform() < OPEN else None
    lights = [_sun(scene.light)] if sky else lights_of(scene.room, scene.light)
    # OpenCV's axes are right, down, forward.
    pose = camera.camera_to_world @ np.diag([1.0, -1.0, -1.0, 1.0])
    return Description(_parts(scene, meshes), pose, lens, h, w, lights, sky)


def _parts(scene: Scene, meshes: MeshSequence) -> list[Part]:
    """One part for each instance, texture, motion and, of the walls, the ceiling."""
    names = NAMES | {entry["instance"]: entry["name"] for entry in scene.objects()}
    moves = (meshes.vertices != meshes.vertices[:1]).any(axis=(0, 2))
    first = meshes.faces[:, 0]
    level = (meshes.vertices[0, meshes.faces, 2] > scene.room.height - 1e-6).all(axis=1)
    kinds = np.stack([
        meshes.instance, meshes.texture[first], moves[meshes.faces].any(axis=1), level & (meshes.instance == WALL),
    ], axis=1).astype(int)  # fmt: skip
    parts = []
    for kind in np.unique(kinds, axis=0):
        faces = meshes.faces[(kinds == kind).all(axis=1)]
        used, renumbered = np.unique(faces, return_inverse=True)
        faces = renumbered.reshape(faces.shape).astype(np.int32)
        instance, texture, moving, ceiling = kind.tolist()
        parts.append(Part(
            instance, bool(ceiling), instance > WALL, surface_of(Texture(texture), names.get(instance, "prop")),
            _apart(meshes.vertices[: None if moving else 1, used], faces).astype(np.float32), faces,
            meshes.rest[used].astype(np.float32),
            np.ascontiguousarray(meshes.colour[..., used, :]),
        ))  # fmt: skip
    return parts


def _apart(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Vertices [T, V, 3] whose rectangles, the sides of boxes, are up to LAYERS steps behind their places: a path that
    starts at one of two sides in the same plane would be stopped by the other, and both be black.

    vertices: metres. faces: [F, 3]. The two faces of a rectangle follow each other and share no vertex with others.
    """
    pairs = faces[: len(faces) // 2 * 2].reshape(-1, 2, 3)
    users = np.bincount(faces.ravel(), minlength=vertices.shape[1])
    shared = (pairs[:, 0, :, None] == pairs[:, 1, None, :]).any(axis=2).sum(axis=1) == 2
    sides = pairs[shared & (users[pairs].sum(axis=(1, 2)) == 10)]
    if not len(sides):
        return vertices
    a, b, c = (vertices[:, sides[:, 0, corner]] for corner in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-30)
    back = normal * (LAYER * (np.arange(len(sides)) % LAYERS))[:, None]
    moved = vertices.copy()
    for corners in (sides[:, 0], sides[:, 1]):
        moved[:, corners] = vertices[:, corners] - back[:, :, None]
    return moved


def _sun(light: Light) -> dict[str, Any]:
    """The sun in W/m2 on a surface that faces it: a white one is a fifth brighter than `light.strength`."""
    return {
        "kind": "sun", "direction": list(light.direction), "colour": list(light.sun),
        "power": float(1.2 * np.pi * light.strength), "angle": float(2 * np.arctan(light.softness / 2)),
    }  # fmt: skip


def lights_of(room: Room, light: Light) -> list[dict[str, Any]]:
    """Two area lamps in a closed room: one where the sun would be, inside the room, and a wide one at the ceiling.

    room, light: of the scene.

    Each: world position, direction and side in metres, colour, power in W. A lamp of power P sends P / (pi d^2) W/m2
    to a surface that faces it at the distance d.
    """
    focus, away = np.array(light.focus), -np.array(light.direction) / np.linalg.norm(light.direction)
    low = np.array([-room.left, -room.front, 0.0]) + 0.15
    high = np.array([room.right, room.depth, room.height]) - 0.15
    with np.errstate(divide="ignore"):
        reach = np.where(away > 0, (high - focus) / away, np.where(away < 0, (low - focus) / away, np.inf)).min()
    distance = float(min(KEY_DISTANCE, reach))
    top = room.height - LAMP_GAP
    lamp = {
        "kind": "area", "position": (focus + distance * away).tolist(), "direction": (-away).tolist(),
        "side": 0.15 + 2 * light.softness, "colour": list(light.sun),
        "power": float(0.6 * light.strength * np.pi**2 * distance**2),
    }  # fmt: skip
    ceiling = {
        "kind": "area", "position": [0.0, 0.0, top], "direction": [0.0, 0.0, -1.0], "side": LAMP_SIDE,
        "colour": list(light.sky), "power": float(light.ambient * np.pi**2 * (top - 0.4) ** 2),
    }  # fmt: skip
    return [lamp, ceiling]


def _sky(light: Light, rng: np.random.Generator) -> dict[str, Any]:
    """A sky about as bright as the ambient light, clearer under a hard sun."""
    clear = np.array([0.35, 0.6, 1.25]), np.array([1.05, 1.15, 1.25])
    warm = rng.uniform(0, 0.35)
    zenith, horizon = clear[0] * (1 - warm) + warm, clear[1] + warm * np.array([0.35, 0.05, -0.3])
    ambient = light.ambient * np.array(light.sky)
    return {
        "zenith": (0.9 * ambient * zenith).tolist(), "horizon": (0.9 * ambient * horizon).tolist(),
        "ground": (0.3 * ambient).tolist(), "clouds": float(rng.uniform(0.1, 0.7)),
        "turn": float(rng.uniform(0, 100)),
    }  # fmt: skip
