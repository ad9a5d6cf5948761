"""Links of machines and figures: materials, geoms, joints, and initial joint states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import degrees
from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation.body import Body, Colour
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.mujoco_scenes.mjcf import GEOM_TYPE, Mjcf, contact_of, pose, text
from phys4d.simulation.mujoco_scenes.rollout import StepCallback
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject
from phys4d.simulation.scene import View
from phys4d.simulation.scenery.materials import MATERIALS, saturated

PASSIVE = {"contype": "0", "conaffinity": "0"}
LYING = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)  # quaternion that rotates a cylinder's axis to y
GREY = (0.42, 0.43, 0.45)
# A contact's spring settles within about twice this time; penetration is about 1 cm at 3 m/s.
CONTACT_TIME = 0.004  # s


@dataclass(frozen=True)
class PartMaterial:
    """Material of one part.

    colour: name of a hue.
    material: name in `materials.MATERIALS`.
    rgb: colour in 0..1.
    density: kg/m3.
    friction: Coulomb coefficient.
    """

    colour: str
    material: str
    rgb: Colour
    density: float
    friction: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material}"

    @property
    def rolling_friction(self) -> float:
        """Lever arm in metres of the resistance to rolling."""
        return MATERIALS[self.material].rolling_friction

    @property
    def texture(self) -> Texture:
        return MATERIALS[self.material].texture

    def scene_object(
        self,
        name: str,
        geoms: Sequence[str],
        *,
        shades: Sequence[float] = (),
        coarser: int = 0,
        dynamic: bool = True,
    ) -> SceneObject:
        """The parts with these geoms as one instance, such as "red wood door"."""
        about = {"material": self.material, "density": self.density, "friction": self.friction}
        return SceneObject(
            name=f"{self.name} {name}", rgb=self.rgb, texture=self.texture, geoms=tuple(geoms), shades=tuple(shades),
            coarser=coarser, dynamic=dynamic, about=about,
        )  # fmt: skip


def sample_material(rng: np.random.Generator, colour: str, materials: Sequence[str]) -> PartMaterial:
    """Samples one of `materials`, in a saturated tone of the named colour."""
    material = str(rng.choice(list(materials)))
    kind = MATERIALS[material]
    return PartMaterial(
        colour, material, saturated(colour, rng), rng.uniform(*kind.density), rng.uniform(*kind.friction)
    )


def fixed_object(name: str, geoms: Sequence[str], rgb: Colour = GREY, texture: Texture = Texture.PLAIN) -> SceneObject:
    """The static frame of a machine as one instance."""
    return SceneObject(name=name, rgb=rgb, texture=texture, geoms=tuple(geoms), dynamic=False)


def set_firm_contacts(model: Mjcf) -> None:
    """Sets the stiffness of all contacts by CONTACT_TIME, with friction against spinning."""
    contact = {"solref": text(CONTACT_TIME, 1), "solimp": text(0.95, 0.99, 0.001, 0.5, 2), "condim": "4"}
    Xml.SubElement(model.section("default"), "geom", contact)


def add_link(
    parent: Xml.Element,
    name: str,
    position: Sequence[float] | np.ndarray = (0, 0, 0),
    quaternion: Sequence[float] | np.ndarray = (1, 0, 0, 0),
) -> Xml.Element:
    """Adds a body in its parent's axes; it is fixed to the parent unless it gets a joint."""
    return Xml.SubElement(parent, "body", pose(position, quaternion), name=name)


def add_geom(
    parent: Xml.Element,
    name: str,
    shape: str,
    size: Sequence[float],
    position: Sequence[float] | np.ndarray = (0, 0, 0),
    quaternion: Sequence[float] | np.ndarray = (1, 0, 0, 0),
    material: PartMaterial | None = None,
    *,
    touches: bool = True,
) -> str:
    """Adds a geom to a body and returns its name.

    parent: MJCF body.
    name: of the geom.
    shape, size: as for `shapes.mesh`.
    position, quaternion: metres and (w, x, y, z) in the body's frame.
    material: density and friction; None for MuJoCo's defaults.
    touches: the geom collides with other bodies, except its own body and its parent.
    """
    matter = (
        {}
        if material is None
        else {"density": text(material.density)} | contact_of(material)
    )
    geom = (
        {"type": GEOM_TYPE[shape], "size": text(*size)}
        | pose(position, quaternion)
        | matter
        | ({} if touches else PASSIVE)
    )
    Xml.SubElement(parent, "geom", geom, name=name)
    return name


def add_hinge(
    parent: Xml.Element,
    name: str,
    axis: Sequence[float],
    *,
    limits: tuple[float, float] | None = None,
    damping: float = 0.0,
    friction: float = 0.0,
) -> None:
    """Adds a hinge through the body's origin.

    parent: MJCF body.
    name: of the joint.
    axis: [3], in the body's axes.
    limits: radians, None for no limits.
    damping: N m s.
    friction: N m, dry friction.
    """
    joint = {"axis": text(*axis), "damping": text(damping), "frictionloss": text(friction)}
    if limits is not None:
        joint |= {"limited": "true", "range": text(*map(degrees, limits)), "solreflimit": text(CONTACT_TIME, 1)}
    Xml.SubElement(parent, "joint", joint, name=name, type="hinge")


def set_free_velocities(view: View, bodies: Mapping[str, Body]) -> StepCallback:
    """Callback that sets the initial velocities of free bodies, by the name of their joint."""

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, body in bodies.items():
            linear = np.array(body.velocity) @ view.level_axes()
            first = model.joint(name).dofadr[0]
            data.qvel[first : first + 3] = linear
            if body.rolling:
                angular = np.cross((0.0, 0.0, 1.0), linear) / body.size[0]
                # MuJoCo keeps a free joint's angular velocity in the body's own axes.
                data.qvel[first + 3 : first + 6] = rotation(np.array(body.quaternion)).T @ angular

    return start


def set_joint_state(angles: Mapping[str, float], velocities: Mapping[str, float] | None = None) -> StepCallback:
    """Callback that sets the initial positions and velocities of hinges and slides, by name.

    angles: radians or metres.
    velocities: rad/s or m/s; default: at rest.
    """

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, angle in angles.items():
            data.qpos[model.joint(name).qposadr[0]] = angle
        for name, velocity in (velocities or {}).items():
            data.qvel[model.joint(name).dofadr[0]] = velocity

    return start
