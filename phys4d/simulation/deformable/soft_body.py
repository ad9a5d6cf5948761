"""Soft solids: materials, tetrahedral meshes in MuJoCo, and how they are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.mujoco_scenes import flex_meshes
from phys4d.simulation.mujoco_scenes.flex import Elastic, add_flex, lump_to_vertices, volumes
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout, StepCallback, in_sequence
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject
from phys4d.simulation.scene import Room, View
from phys4d.simulation.scenery import sampling
from phys4d.simulation.scenery.materials import saturated

STEPS_PER_SECOND = 360
CONTACT = (0.006, 1.0)  # time constant in s and damping ratio of contacts
RADIUS = 0.003  # metres, contact radius of the surface
PENETRATION = 0.02  # metres
EDGE = 0.3  # radius of a box's edges over its smallest half extent

SoftShape = Literal["ball", "box", "cylinder"]


@dataclass(frozen=True)
class SoftMaterial:
    """Ranges (low, high) of a soft material's physical parameters.

    texture: pattern.
    young: Young's modulus, Pa.
    density: kg/m3.
    damping: seconds.
    friction: Coulomb coefficient.
    poisson: Poisson's ratio.
    yields: strain above which the deformation is plastic, 0 for never.
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
class SoftBody:
    """A soft body in its rest shape.

    shape: "ball", "box" or "cylinder".
    material: name in SOFT_MATERIALS.
    colour, rgb: name of the hue, and the colour in 0..1.
    size: metres, as for `shapes.mesh`.
    points: points of its grid along each axis.
    young: Pa.
    density: kg/m3.
    damping: seconds.
    friction: Coulomb coefficient.
    """

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
        return flex_meshes.grid(*self.points)[1]

    @property
    def rest(self) -> np.ndarray:
        """Its points [N, 3] in metres around its centre."""
        places = flex_meshes.grid(*self.points)[0]
        if self.shape == "ball":
            return flex_meshes.ball(places, (self.size[0],) * 3)
        if self.shape == "cylinder":
            return flex_meshes.cylinder(places, self.size[0], self.size[1])
        x, y, z = self.size
        return flex_meshes.rounded(places, (x, y, z), EDGE * min(self.size))

    @property
    def mass(self) -> float:
        return self.density * float(volumes(self.rest, self.tetrahedra).sum())


def sample_soft_body(
    rng: np.random.Generator,
    colour: str,
    shape: SoftShape,
    size: tuple[float, ...],
    *,
    points: tuple[int, int, int] = (7, 7, 7),
    materials: tuple[str, ...] = ("jelly", "soft rubber"),
) -> SoftBody:
    """Samples a soft body of one of `materials`.

    colour: name of a hue.
    shape, size: as for `shapes.mesh`.
    points: points of its grid along each axis.
    materials: names in SOFT_MATERIALS.
    """
    material = str(rng.choice(list(materials)))
    kind = SOFT_MATERIALS[material]
    return SoftBody(
        shape, material, colour, saturated(colour, rng), tuple(float(s) for s in size), points,
        rng.uniform(*kind.young), rng.uniform(*kind.density), rng.uniform(*kind.damping),
        rng.uniform(*kind.friction),
    )  # fmt: skip


def model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model for soft bodies, with an integrator that is implicit in their stiffness."""
    return Mjcf(room, props, integrator="discrete", solver="CG", tolerance="1e-6", iterations="50")


class NeoHookean:
    """Changes every elastic solid of a model to a Neo-Hookean material, which resists inversion; a scene's `start`.

    Source: simplified from Smith, de Goes and Kim, "Stable Neo-Hookean flesh simulation" (2018), by MuJoCo. MJCF has no
        attribute for it, so the stiffness is taken from the same model compiled as an MjSpec.

    text: MJCF of the model.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        specification = mujoco.MjSpec.from_string(self.text)
        for number, flex in enumerate(specification.flexes):
            # Not for plastic materials, whose rest shape follows the deformation.
            flex.elastic3d = int(not model.flex_plasticmode[number])
        model.flex_stiffness[:] = specification.compile().flex_stiffness


def add_soft(
    mjcf: Mjcf,
    body: SoftBody,
    name: str,
    position: np.ndarray,
    quaternion: np.ndarray | None = None,
    *,
    pinned: np.ndarray | None = None,
) -> None:
    """Adds a soft body as the flex `name`.

    mjcf: model to extend.
    body: its properties.
    name: of the flex.
    position: [3], world metres.
    quaternion: [4], (w, x, y, z).
    pinned: indices of fixed points.
    """
    points, tetrahedra = body.rest, body.tetrahedra
    mass = lump_to_vertices(volumes(points, tetrahedra) * body.density, tetrahedra, len(points))
    turn = np.eye(3) if quaternion is None else rotation(np.asarray(quaternion))
    add_flex(
        mjcf, name, points @ turn.T + position, tetrahedra, mass, body.elastic,
        friction=body.friction, pinned=pinned, radius=RADIUS, solref=CONTACT,
    )  # fmt: skip


def scene_object(body: SoftBody, name: str) -> SceneObject:
    """The flex `name` as a scene object."""
    kind = SOFT_MATERIALS[body.material]
    about = {
        "shape": body.shape, "material": body.material, "size": list(body.size), "mass": body.mass,
        "density": body.density, "young_modulus": body.young, "poisson_ratio": kind.poisson,
        "damping_time": body.damping, "yield_strain": kind.yields, "friction": body.friction,
    }  # fmt: skip
    return SceneObject(
        name=body.name, rgb=body.rgb, texture=kind.texture, flex=name, smooth=1, rest=body.rest, about=about
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
    physics: Mapping[str, Any] | None = None,
    start: StepCallback | None = None,
) -> MujocoScene:
    """A scene of soft bodies; sets their Neo-Hookean material, then calls `start`."""
    text = mjcf.text()
    starts: list[StepCallback] = [NeoHookean(text), *([] if start is None else [start])]
    return MujocoScene(
        family=family, category_name="deformable", room=room, view=view, light=sampling.light(rng), props=props,
        scene_objects=scene_objects, model=text, caption=caption, steps_per_second=STEPS_PER_SECOND,
        rejection_reason=rejection_reason, start=in_sequence(*starts), physics=physics or {}, penetration=PENETRATION,
    )  # fmt: skip
