"""Samples what families of liquids share (camera, trays, obstacles), and checks that the liquid reaches a solid."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.body import Colour, Prop, Shape
from phys4d.simulation.fluid.scene import ParticleMotion
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.obstacles import Path, Solid
from phys4d.simulation.scene import View
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted, saturated
from phys4d.simulation.shapes import half_height

RIM = 0.07  # metres, thickness of a rim: more than a particle moves in one step
ENOUGH = 0.02  # share of the particles that must reach the solid
OBSTACLES: tuple[Shape, ...] = ("ball", "box", "cylinder")


def view(rng: np.random.Generator, *, distance: tuple[float, float] = (1.3, 1.5)) -> View:
    """Samples a camera that looks down into a tray; distance: range in metres."""
    return sampling.view(rng, distance=distance, height=(0.95, 1.3), target_height=0.17)


def tray(rng: np.random.Generator, half_width: float, half_depth: float, rim: float, yaw: float = 0.0) -> list[Prop]:
    """Four rims on the floor around the origin; the nearest one is lower.

    half_width, half_depth: half extents of the inside, metres.
    rim: height, metres.
    yaw: radians.
    """
    rgb = muted(rng, 0.5, 0.85)
    sides = [
        ((half_width + 2 * RIM, RIM / 2), (0.0, half_depth + RIM / 2), rim),
        ((half_width + 2 * RIM, RIM / 2), (0.0, -half_depth - RIM / 2), 0.85 * rim),
        ((RIM / 2, half_depth), (half_width + RIM / 2, 0.0), rim),
        ((RIM / 2, half_depth), (-half_width - RIM / 2, 0.0), rim),
    ]
    c, s = np.cos(yaw), np.sin(yaw)
    w, i, j, k = (float(value) for value in poses.yaw_tilt(yaw))
    return [
        Prop(
            "rim", "box", rgb, Texture.PLANKS, (*half, height / 2), 0.3,
            (float(c * x - s * y), float(s * x + c * y), height / 2), (w, i, j, k),
        )
        for half, (x, y), height in sides
    ]  # fmt: skip


def obstacle(
    rng: np.random.Generator, colour: str, shape: Shape, size: tuple[float, ...], x: float, y: float
) -> Prop:
    """A fixed body on the floor as an obstacle.

    colour: name of a hue.
    shape, size: as for `shapes.mesh`.
    x, y: world metres.
    """
    w, i, j, k = (float(value) for value in poses.yaw_tilt(rng.uniform(0, np.pi / 2)))
    rgb: Colour = saturated(colour, rng)
    place = (float(x), float(y), half_height(shape, size))
    return Prop(f"{colour} {shape}", shape, rgb, Texture.PLAIN, size, 0.3, place, (w, i, j, k))


def pushed(
    start: np.ndarray, way: np.ndarray, seconds: float, quaternion: np.ndarray, *, after: float = 0.0
) -> Path:
    """A path from rest at `start` [3] by the displacement `way` [3] within `seconds`, then at rest; acceleration is
    continuous.

    after: seconds until it begins. quaternion: [4], the orientation.
    """

    def path(time: float) -> tuple[np.ndarray, np.ndarray]:
        s = min(max((time - after) / seconds, 0.0), 1.0)
        return start + (s - np.sin(2 * np.pi * s) / (2 * np.pi)) * way, quaternion

    return path


def reaches(solid: Solid | Prop, volume_index: int = 0) -> Callable[[ParticleMotion], str | None]:
    """Whether some of a volume's liquid comes to a solid before the last fifth of the clip."""
    body = Solid(solid.shape, solid.size, solid.position, solid.quaternion)

    def rejection_reason(particle_motion: ParticleMotion) -> str | None:
        mine = particle_motion.positions[:, particle_motion.volume_index == volume_index]
        near = [np.mean(body.depth(points) > -1.2 * particle_motion.spacing) for points in mine]
        late = round(0.8 * (len(near) - 1))
        return None if max(near[: late + 1]) >= ENOUGH else "no contact in time"

    return rejection_reason
