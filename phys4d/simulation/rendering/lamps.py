"""Light of glowing things: point lights at their parts, computed from meshes and colours."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence, Texture

MOST = 8  # lamps of a clip, which the shaders know
PARTS = 4  # of a thing, along its longest axis
GAIN = 4.0  # brightness of the light over that of what is drawn; a picture shows hot matter far darker than it is


@dataclass(frozen=True)
class Lamps:
    """N point lights over T frames. They cast no shadow.

    place: float32 [T, N, 3], world metres.
    power: float32 [T, N, 3], RGB of the light on a surface that faces the lamp at its radius.
    radius: float32 [T, N], metres, of the ball with the surface of the part; beyond it light falls by inverse square.
    """

    place: np.ndarray
    power: np.ndarray
    radius: np.ndarray

    @property
    def count(self) -> int:
        return self.place.shape[1]

    def changes(self, t: int) -> bool:
        """Whether the light differs from that of the frame before."""
        return any(not np.array_equal(each[t], each[t - 1]) for each in (self.place, self.power, self.radius))


def lamps_of(meshes: MeshSequence) -> Lamps | None:
    """The light of the glowing things of a clip, of the MOST brightest parts; None if nothing glows."""
    hot = meshes.texture[meshes.faces[:, 0]] == Texture.GLOW
    found = []
    for number in np.unique(meshes.instance[hot]):
        faces = meshes.faces[hot & (meshes.instance == number)]
        middle = meshes.rest[faces].mean(axis=1)
        axis = int(np.argmax(np.ptp(middle, axis=0)))
        part = (np.argsort(np.argsort(middle[:, axis], kind="stable"), kind="stable") * PARTS) // len(faces)
        found += [_lamp(meshes, faces[part == k]) for k in np.unique(part)]
    brightness = [float((power.max(axis=1) * radius**2).max()) for _, power, radius in found]
    bright = [number for number in np.argsort(brightness)[::-1][:MOST] if brightness[number] > 0]
    if not bright:
        return None
    place, power, radius = (
        np.stack([found[number][k] for number in sorted(bright)], axis=1).astype(np.float32) for k in range(3)
    )
    return Lamps(place, power, radius)


def _lamp(meshes: MeshSequence, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place [T, 3], power [T, 3] and radius [T] of the light of some faces."""
    place, power = np.zeros((meshes.frames, 3)), np.zeros((meshes.frames, 3))
    radius = np.zeros(meshes.frames)
    for t in range(meshes.frames):
        corners = meshes.vertices[t][faces]
        colour = (meshes.colour[t] if meshes.colour.ndim == 3 else meshes.colour)[faces].mean(axis=1).astype(np.float64)
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
        share = area / area.sum()
        place[t], power[t] = share @ corners.mean(axis=1), GAIN * (share @ emitted(colour))
        x, y, z = np.ptp(corners.reshape(-1, 3), axis=0)
        # Of a heap of balls no more is seen than its outside.
        radius[t] = np.sqrt(min(area.sum(), 2 * (x * y + y * z + z * x)) / (4 * np.pi))
    return place, power, radius


def emitted(colour: np.ndarray) -> np.ndarray:
    """RGB [..., 3] of the light that the pattern GLOW adds for a colour, see `patterns`."""
    ramp = np.clip((colour[..., 0] - colour[..., 2] - 0.12) / (0.6 - 0.12), 0, 1)
    return 0.75 * colour * (ramp**2 * (3 - 2 * ramp))[..., None]
