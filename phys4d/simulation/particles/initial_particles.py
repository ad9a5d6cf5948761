"""Initial positions of particles: volumes filled evenly."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Shape
from phys4d.simulation.mesh_sequence import Track, rotation

JITTER = 0.1  # over the spacing: rows of a perfect lattice would slide as one block


@dataclass(frozen=True)
class InitialVolume:
    """A region filled with matter at t = 0.

    shape, size: as for `shapes.mesh`; box, ball or cylinder.
    position: [3], world metres.
    quaternion: [4], (w, x, y, z).
    velocity: [3], m/s along the camera's level axes (right, away, up), in tenths.
    """

    shape: Shape
    size: tuple[float, ...]
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def cubic_metres(self) -> float:
        return shapes.volume(self.shape, self.size)

    def outline(self) -> np.ndarray:
        """World points [V, 3] of its surface, metres."""
        vertices, _ = shapes.mesh(self.shape, self.size, 1)
        return Track(np.array([self.position]), np.array([self.quaternion])).apply(vertices)[0]


@dataclass(frozen=True)
class InitialParticles:
    """Particles at t = 0.

    points: float64 [N, 3], world metres.
    cubic_metres: float64 [N], volume of each particle.
    volume_index: int [N], index of the volume that each particle starts in.
    """

    points: np.ndarray
    cubic_metres: np.ndarray
    volume_index: np.ndarray

    @property
    def spacing(self) -> float:
        """Mean edge length in metres of the cube that a particle fills."""
        return float(np.mean(self.cubic_metres) ** (1 / 3))


def fill_volumes(volumes: tuple[InitialVolume, ...], particles: int, rng: np.random.Generator) -> InitialParticles:
    """Fills volumes with about `particles` particles in total, with the same density in each."""
    spacing = (sum(volume.cubic_metres for volume in volumes) / particles) ** (1 / 3)
    points, share, volume_index = [], [], []
    for number, volume in enumerate(volumes):
        local = _lattice(volume, spacing)
        local = local + rng.uniform(-JITTER, JITTER, local.shape) * spacing
        points.append(local @ rotation(np.array(volume.quaternion)).T + np.array(volume.position))
        share.append(np.full(len(local), volume.cubic_metres / len(local)))
        volume_index.append(np.full(len(local), number))
    return InitialParticles(np.concatenate(points), np.concatenate(share), np.concatenate(volume_index))


def _lattice(volume: InitialVolume, spacing: float) -> np.ndarray:
    """Points [N, 3] of a cubic lattice inside the volume, in its own frame; boxes are filled to their sides."""
    half = _half_extents(volume)
    count = np.maximum(np.round(2 * half / spacing).astype(int), 1)
    axes = [(np.arange(n) + 0.5) * (2 * h / n) - h for n, h in zip(count, half, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    if volume.shape == "box":
        return grid
    radial = np.linalg.norm(grid, axis=1) if volume.shape == "ball" else np.hypot(grid[:, 0], grid[:, 1])
    return grid[radial < volume.size[0] - 0.2 * spacing]


def _half_extents(volume: InitialVolume) -> np.ndarray:
    if volume.shape == "box":
        return np.array(volume.size)
    if volume.shape == "ball":
        return np.full(3, volume.size[0])
    if volume.shape == "cylinder":
        return np.array([volume.size[0], volume.size[0], volume.size[1]])
    raise ValueError(f"a volume of shape {volume.shape!r}: expected box, ball or cylinder")
