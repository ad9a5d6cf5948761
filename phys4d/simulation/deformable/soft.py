"""Soft solids: their materials, their tetrahedra in MuJoCo, and how they are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.scene import Room, View
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import saturated
from phys4d.simulation.world import lattice
from phys4d.simulation.world.flex import Elastic, add_flex, lumped, volumes
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import Thing

STEPS_PER_SECOND = 360
CONTACT = (0.006, 1.0)  # time constant in s and damping ratio of contacts
RADIUS = 0.003  # metres around the surface that touch
PENETRATION = 0.02
EDGE = 0.3  # radius of a box's edges over its smallest half extent

SoftShape = Literal["ball", "box", "cylinder"]


@dataclass(frozen=True)
class SoftMaterial:
    """Ranges (low, high): Young's modulus in Pa, density in kg/m3, damping time in s, Coulomb friction.

    yields: strain beyond which it keeps its shape, 0 for never.
    """

    texture: Texture
    young: tuple[float, float]
    density: tuple[float, float]
    damping: tuple[float, float]
    friction: tuple[float, float]
    poisson: float = 0.4
    yields: float = 0.0


SOFT_MATERIALS = {
    "jelly": SoftMaterial(Texture.JELLY, (1.5e4, 2.5e4), (900, 1000), (0.004, 0.006), (0.5, 0.6)),
    "soft rubber": SoftMaterial(Texture.BANDS, (6e4, 9e4), (900, 1000), (0.002, 0.003), (0.75, 0.85)),
    "soft clay": SoftMaterial(Texture.SPECKLE, (1e5, 1.5e5), (1600, 1800), (0.01, 0.015), (0.65, 0.75), 0.4, 0.04),
}


@dataclass(frozen=True)
class Soft:
    """A soft body at rest in its own shape. size as of a rigid shape, metres; points: of its grid along each axis."""

    shape: SoftShape
    material: str
    colour: str
    rgb: Colour
    size: tuple[float, ...]
    points: tuple[int, int, int]
    young: float
    density: float
    damping: float
    friction: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material} {self.shape}"

    @property
    def elastic(self) -> Elastic:
        kind = SOFT_MATERIALS[self.material]
        return Elastic(young=self.young, poisson=kind.poisson, damping=self.damping, yields=kind.yields)

    @property
    def tetrahedra(self) -> np.ndarray:
        return lattice.grid(*self.points)[1]

    @property
    def rest(self) -> np.ndarray:
        """Its points [N, 3] in metres around its centre."""
        places = lattice.grid(*self.points)[0]
        if self.shape == "ball":
            return lattice.ball(places, (self.size[0],) * 3)
        if self.shape == "cylinder":
            return lattice.cylinder(places, self.size[0], self.size[1])
        x, y, z = self.size
        return lattice.rounded(places, (x, y, z), EDGE * min(self.size))

    @property
    def mass(self) -> float:
        return self.density * float(volumes(self.rest, self.tetrahedra).sum())


def soft(
    random: np.random.Generator,
    colour: str,
    shape: SoftShape,
    size: tuple[float, ...],
    *,
    points: tuple[int, int, int] = (7, 7, 7),
    materials: tuple[str, ...] = ("jelly", "soft rubber"),
) -> Soft:
    """A soft body of one of these materials."""
    material = str(random.choice(list(materials)))
    kind = SOFT_MATERIALS[material]
    return Soft(
        shape, material, colour, saturated(colour, random), tuple(float(s) for s in size), points,
        random.uniform(*kind.young), random.uniform(*kind.density), random.uniform(*kind.damping),
        random.uniform(*kind.friction),
    )  # fmt: skip


def model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model for soft bodies: implicit in their stiffness."""
    return Mjcf(room, props, integrator="discrete", solver="CG", tolerance="1e-6", iterations="50")


class NeoHookean:
    """Turns every elastic solid of a model into a Neo-Hookean one, which cannot turn inside out; a scene's `start`.

    Simplified from Smith, de Goes and Kim, "Stable Neo-Hookean flesh simulation" (2018), by MuJoCo. MJCF has no words
    for it, so that its stiffness is taken from the same model compiled as a specification. text: the MJCF.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        specification = mujoco.MjSpec.from_string(self.text)
        for number, flex in enumerate(specification.flexes):
            # What yields is never far from its rest shape, and has no use for it.
            flex.elastic3d = int(not model.flex_plasticmode[number])
        model.flex_stiffness[:] = specification.compile().flex_stiffness


def add_soft(
    mjcf: Mjcf,
    body: Soft,
    name: str,
    position: np.ndarray,
    quaternion: np.ndarray | None = None,
    *,
    pinned: np.ndarray | None = None,
) -> None:
    """Adds the flex `name` at a place in world metres, turned by (w, x, y, z); pinned: points that stay there."""
    points, tetrahedra = body.rest, body.tetrahedra
    mass = lumped(volumes(points, tetrahedra) * body.density, tetrahedra, len(points))
    turn = np.eye(3) if quaternion is None else rotation(np.asarray(quaternion))
    add_flex(
        mjcf, name, points @ turn.T + position, tetrahedra, mass, body.elastic,
        friction=body.friction, pinned=pinned, radius=RADIUS, solref=CONTACT,
    )  # fmt: skip


def thing(body: Soft, name: str) -> Thing:
    """The flex `name` as it is seen."""
    kind = SOFT_MATERIALS[body.material]
    about = {
        "shape": body.shape, "material": body.material, "size": list(body.size), "mass": body.mass,
        "density": body.density, "young_modulus": body.young, "poisson_ratio": kind.poisson,
        "damping_time": body.damping, "yield_strain": kind.yields, "friction": body.friction,
    }  # fmt: skip
    return Thing(
        name=body.name, rgb=body.rgb, texture=kind.texture, flex=name, smooth=1, rest=body.rest, about=about
    )  # fmt: skip


def scene(
    random: np.random.Generator,
    family: str,
    view: View,
    room: Room,
    mjcf: Mjcf,
    things: tuple[Thing, ...],
    caption: str,
    happened: Callable[[Play], str | None],
    *,
    props: tuple[Prop, ...] = (),
    physics: Mapping[str, Any] | None = None,
) -> WorldScene:
    """A scene of soft bodies; the model is complete but for their material."""
    text = mjcf.text()
    return WorldScene(
        family=family, kind="deformable", room=room, view=view, light=staging.light(random), props=props,
        things=things, model=text, caption=caption, steps_per_second=STEPS_PER_SECOND, happened=happened,
        start=NeoHookean(text), physics=physics or {}, penetration=PENETRATION,
    )  # fmt: skip
