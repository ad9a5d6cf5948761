"""What the families of liquids draw alike: trays, things in the way, and whether the liquid gets there."""

from collections.abc import Callable

import numpy as np

from phys4d.simulation.body import Colour, Prop, Shape
from phys4d.simulation.fluid.scene import Flow
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import View
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import muted, saturated

RIM = 0.07  # metres that a rim is thick: more than a particle goes in one step
ENOUGH = 0.02  # share of the particles that have to arrive
OBSTACLES: tuple[Shape, ...] = ("ball", "box", "cylinder")


def view(random: np.random.Generator, *, distance: tuple[float, float] = (1.3, 1.5)) -> View:
    """A camera that looks down into a tray."""
    return staging.view(random, distance=distance, height=(0.95, 1.3), target_height=0.17)


def tray(random: np.random.Generator, half_width: float, half_depth: float, rim: float, yaw: float = 0.0) -> list[Prop]:
    """Four rims on the floor around the world's middle, the nearest lower; half extents of the inside, in metres."""
    rgb = muted(random, 0.5, 0.85)
    sides = [
        ((half_width + 2 * RIM, RIM / 2), (0.0, half_depth + RIM / 2), rim),
        ((half_width + 2 * RIM, RIM / 2), (0.0, -half_depth - RIM / 2), 0.85 * rim),
        ((RIM / 2, half_depth), (half_width + RIM / 2, 0.0), rim),
        ((RIM / 2, half_depth), (-half_width - RIM / 2, 0.0), rim),
    ]
    c, s = np.cos(yaw), np.sin(yaw)
    w, i, j, k = (float(value) for value in staging.turned(yaw))
    return [
        Prop(
            "rim", "box", rgb, Texture.PLANKS, (*half, height / 2), 0.3,
            (float(c * x - s * y), float(s * x + c * y), height / 2), (w, i, j, k),
        )
        for half, (x, y), height in sides
    ]  # fmt: skip


def thing_in_the_way(
    random: np.random.Generator, colour: str, shape: Shape, size: tuple[float, ...], x: float, y: float
) -> Prop:
    """A body that stands firmly on the floor."""
    w, i, j, k = (float(value) for value in staging.turned(random.uniform(0, np.pi / 2)))
    rgb: Colour = saturated(colour, random)
    place = (float(x), float(y), staging.standing(shape, size))
    return Prop(f"{colour} {shape}", shape, rgb, Texture.PLAIN, size, 0.3, place, (w, i, j, k))


def reaches(solid: Solid | Prop, part: int = 0) -> Callable[[Flow], str | None]:
    """Whether some of a volume's liquid comes to a solid before the last fifth of the clip."""
    body = Solid(solid.shape, solid.size, solid.position, solid.quaternion)

    def happened(flow: Flow) -> str | None:
        mine = flow.positions[:, flow.part == part]
        near = [np.mean(body.depth(points) > -1.2 * flow.spacing) for points in mine]
        late = round(0.8 * (len(near) - 1))
        return None if max(near[: late + 1]) >= ENOUGH else "no contact in time"

    return happened


def always(flow: Flow) -> str | None:
    """For what cannot fail to happen."""
    return None
