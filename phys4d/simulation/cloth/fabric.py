"""Cloth: its fabrics, its sheet of triangles in MuJoCo, and how it is drawn."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.cloth import air
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Room
from phys4d.simulation.stage.materials import saturated
from phys4d.simulation.world import lattice
from phys4d.simulation.world.flex import Elastic, add_flex, areas, lumped
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.thing import Thing

STEPS_PER_SECOND = 240
POISSON = 0.2
DAMPING = 0.01  # s
# Half of the gap at which cloth touches. Folds at sharp edges are drawn rounder than they are simulated, by up to a
# quarter of the distance between its points.
RADIUS = 0.008
PENETRATION = 2 * RADIUS  # where two layers of cloth would have passed through each other
PHYSICS = {"air_density": air.DENSITY, "drag_coefficient": air.DRAG}


@dataclass(frozen=True)
class Fabric:
    """Ranges (low, high): density in kg/m2, stretching stiffness in N/m, bending rigidity in N m, Coulomb friction.

    Stretching is softer than in real cloth by one order of magnitude, so that time steps can be long.
    """

    texture: Texture
    density: tuple[float, float]
    stretching: tuple[float, float]
    bending: tuple[float, float]
    friction: tuple[float, float]


FABRICS = {
    "cotton": Fabric(Texture.WEAVE, (0.15, 0.2), (200, 250), (4e-5, 7e-5), (0.5, 0.6)),
    "wool": Fabric(Texture.KNIT, (0.3, 0.4), (200, 250), (2e-4, 3e-4), (0.6, 0.7)),
    "leather": Fabric(Texture.LEATHER, (0.7, 0.9), (600, 800), (2e-3, 3e-3), (0.45, 0.55)),
}


@dataclass(frozen=True)
class Cloth:
    """A rectangular cloth: `half` extents in metres along its sides, `count` points along each; physics as in Fabric."""

    fabric: str
    colour: str
    rgb: Colour
    half: tuple[float, float]
    count: int
    density: float
    stretching: float
    bending: float
    friction: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.fabric} cloth"

    @property
    def mass(self) -> float:
        return 4 * self.half[0] * self.half[1] * self.density

    @property
    def flat(self) -> np.ndarray:
        """Its points [N, 3] in metres, laid out around the origin at z = 0; point (i, j) is number i * count + j."""
        places, _ = lattice.sheet(self.count)
        return np.concatenate([places * np.array(self.half), np.zeros((len(places), 1))], axis=1)

    @property
    def triangles(self) -> np.ndarray:
        return lattice.sheet(self.count)[1]

    @property
    def elastic(self) -> Elastic:
        """The shell with this stiffness against stretching and bending."""
        thickness = float(np.sqrt(12 * (1 - POISSON**2) * self.bending / self.stretching))
        return Elastic(
            young=self.stretching / thickness, poisson=POISSON, damping=DAMPING, thickness=thickness
        )


def cloth(
    random: np.random.Generator,
    colour: str,
    half: tuple[float, float],
    *,
    count: int = 23,
    fabrics: tuple[str, ...] = tuple(FABRICS),
) -> Cloth:
    """A cloth of one of these fabrics."""
    fabric = str(random.choice(list(fabrics)))
    kind = FABRICS[fabric]
    return Cloth(
        fabric, colour, saturated(colour, random), (float(half[0]), float(half[1])), count,
        random.uniform(*kind.density), random.uniform(*kind.stretching), random.uniform(*kind.bending),
        random.uniform(*kind.friction),
    )  # fmt: skip


def model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model for cloth: implicit in its stiffness, so that steps can be long."""
    return Mjcf(room, props, integrator="discrete", solver="CG", tolerance="1e-5", iterations="50")


def add_cloth(
    mjcf: Mjcf, cloth: Cloth, points: np.ndarray, *, pinned: np.ndarray | None = None, selfcollide: bool = True
) -> None:
    """Adds the flex "cloth" with its points at world metres [N, 3]; pinned: numbers of those that stay there."""
    triangles = cloth.triangles
    mass = lumped(areas(cloth.flat, triangles) * cloth.density, triangles, len(points))
    add_flex(
        mjcf, "cloth", points, triangles, mass, cloth.elastic,
        friction=cloth.friction, pinned=pinned, radius=RADIUS, selfcollide=selfcollide,
    )  # fmt: skip


def thing(cloth: Cloth) -> Thing:
    """The flex "cloth" as it is seen."""
    about = {
        "shape": "cloth", "material": cloth.fabric, "size": [2 * cloth.half[0], 2 * cloth.half[1]], "mass": cloth.mass,
        "density_per_area": cloth.density, "stretching_stiffness": cloth.stretching,
        "bending_rigidity": cloth.bending, "friction": cloth.friction,
    }  # fmt: skip
    return Thing(
        name=cloth.name, rgb=cloth.rgb, texture=FABRICS[cloth.fabric].texture, flex="cloth", smooth=1,
        rest=cloth.flat, about=about,
    )  # fmt: skip


@cache
def corners(count: int) -> tuple[int, int, int, int]:
    """Numbers of a cloth's corners, along its first side, then back along the opposite one."""
    return 0, (count - 1) * count, count * count - 1, count - 1
