"""Cloth: fabrics, the triangle sheet in MuJoCo, and how it is drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.cloth import air_drag
from phys4d.simulation.cloth.air_drag import AirDrag
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.mujoco_scenes import flex_meshes
from phys4d.simulation.mujoco_scenes.flex import Elastic, add_flex, areas, lump_to_vertices
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout, StepCallback
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject
from phys4d.simulation.scene import Room, View
from phys4d.simulation.scenery import sampling
from phys4d.simulation.scenery.materials import saturated

STEPS_PER_SECOND = 240
POISSON = 0.2
DAMPING = 0.015  # s
# Metres: contact radius, half of the gap between two layers in contact. At sharp folds the drawn surface is smoother
# than the simulated one, by up to a quarter of the distance between points.
RADIUS = 0.007
PENETRATION = 0.02  # metres; includes the contact gap 2 * RADIUS


@dataclass(frozen=True)
class Fabric:
    """Ranges (low, high) of a fabric's physical parameters.

    Cotton and wool are softer than woven cloth by one order of magnitude, as soft as knitted jersey, so that time steps
    can be long. Foam rubber is a sheet about 6 mm thick, of 125 kg/m3 and 0.1 MPa, which stretches under a ball.

    texture: pattern.
    density: kg/m2.
    stretching: N/m, stretching stiffness.
    bending: N m, bending rigidity.
    friction: Coulomb coefficient.
    """

    texture: Texture
    density: tuple[float, float]
    stretching: tuple[float, float]
    bending: tuple[float, float]
    friction: tuple[float, float]


FABRICS = {
    "cotton": Fabric(Texture.WEAVE, (0.15, 0.2), (200, 250), (1.2e-4, 1.6e-4), (0.5, 0.6)),
    "wool": Fabric(Texture.KNIT, (0.3, 0.4), (200, 250), (3e-4, 4e-4), (0.6, 0.7)),
    "foam rubber": Fabric(Texture.FOAM, (0.7, 0.9), (600, 800), (2e-3, 3e-3), (0.45, 0.55)),
}


@dataclass(frozen=True)
class Cloth:
    """A rectangular cloth.

    fabric: name in FABRICS.
    colour, rgb: name of the hue, and the colour in 0..1.
    half: half extents, metres.
    count: points along each side.
    density, stretching, bending, friction: as in `Fabric`.
    """

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
        return f"{self.colour} {self.fabric} {'sheet' if self.fabric == 'foam rubber' else 'cloth'}"

    @property
    def mass(self) -> float:
        return 4 * self.half[0] * self.half[1] * self.density

    @property
    def flat(self) -> np.ndarray:
        """Its points [N, 3] in metres, flat around the origin at z = 0; point (i, j) has index i * count + j."""
        places, _ = flex_meshes.sheet(self.count)
        return np.concatenate([places * np.array(self.half), np.zeros((len(places), 1))], axis=1)

    @property
    def triangles(self) -> np.ndarray:
        return flex_meshes.sheet(self.count)[1]

    @property
    def elastic(self) -> Elastic:
        """The elastic shell with this stretching and bending stiffness."""
        thickness = float(np.sqrt(12 * (1 - POISSON**2) * self.bending / self.stretching))
        return Elastic(
            young=self.stretching / thickness, poisson=POISSON, damping=DAMPING, thickness=thickness
        )


def sample_cloth(
    rng: np.random.Generator,
    colour: str,
    half: tuple[float, float],
    *,
    count: int = 21,
    fabrics: tuple[str, ...] = tuple(FABRICS),
) -> Cloth:
    """Samples a cloth of one of `fabrics`.

    colour: name of a hue.
    half: half extents, metres.
    count: points along each side.
    fabrics: names in FABRICS.
    """
    fabric = str(rng.choice(list(fabrics)))
    kind = FABRICS[fabric]
    return Cloth(
        fabric, colour, saturated(colour, rng), (float(half[0]), float(half[1])), count,
        rng.uniform(*kind.density), rng.uniform(*kind.stretching), rng.uniform(*kind.bending),
        rng.uniform(*kind.friction),
    )  # fmt: skip


def model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model for cloth, with an integrator that is implicit in its stiffness, so that steps can be long.

    With fewer solver iterations, folds in contact jitter and can pass through each other.
    """
    return Mjcf(room, props, integrator="discrete", solver="CG", tolerance="1e-6", iterations="150")


def add_cloth(
    mjcf: Mjcf, cloth: Cloth, points: np.ndarray, *, pinned: np.ndarray | None = None, selfcollide: bool = True
) -> None:
    """Adds the flex "cloth".

    mjcf: model to extend.
    cloth: its properties.
    points: [N, 3], world metres.
    pinned: indices of fixed points.
    selfcollide: the cloth collides with itself.
    """
    triangles = cloth.triangles
    mass = lump_to_vertices(areas(cloth.flat, triangles) * cloth.density, triangles, len(points))
    add_flex(
        mjcf, "cloth", points, triangles, mass, cloth.elastic,
        friction=cloth.friction, pinned=pinned, radius=RADIUS, selfcollide=selfcollide,
    )  # fmt: skip


def scene_object(cloth: Cloth) -> SceneObject:
    """The flex "cloth" as a scene object."""
    about = {
        "shape": "cloth", "material": cloth.fabric, "size": [2 * cloth.half[0], 2 * cloth.half[1]], "mass": cloth.mass,
        "density_per_area": cloth.density, "stretching_stiffness": cloth.stretching,
        "bending_rigidity": cloth.bending, "friction": cloth.friction,
    }  # fmt: skip
    return SceneObject(
        name=cloth.name, rgb=cloth.rgb, texture=FABRICS[cloth.fabric].texture, flex="cloth", smooth=1,
        rest=cloth.flat, about=about,
    )  # fmt: skip


def scene(
    rng: np.random.Generator,
    family: str,
    view: View,
    room: Room,
    mjcf: Mjcf,
    scene_objects: tuple[SceneObject, ...],
    caption: str,
    rejection_reason: Callable[[Rollout], str | None],
    *,
    props: tuple[Prop, ...] = (),
    start: StepCallback | None = None,
    wind: tuple[float, float, float] = (0.0, 0.0, 0.0),
    physics: Mapping[str, Any] | None = None,
    endless: bool = False,
) -> MujocoScene:
    """A scene with the flex "cloth" in air that moves with `wind` (m/s, world); `endless` as in `MujocoScene`."""
    return MujocoScene(
        family=family, category_name="cloth", room=room, view=view, light=sampling.light(rng), props=props,
        scene_objects=scene_objects, model=mjcf.text(), caption=caption, steps_per_second=STEPS_PER_SECOND,
        rejection_reason=rejection_reason, start=start, before_step=AirDrag(wind),
        physics={"air_density": air_drag.DENSITY, "drag_coefficient": air_drag.DRAG, **(physics or {})},
        penetration=PENETRATION, closed=not any(wind), endless=endless,
    )  # fmt: skip
