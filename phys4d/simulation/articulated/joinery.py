"""Parts of machines and figures: what they are made of, their geoms, the joints between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import degrees
from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation.body import Body, Colour
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.scene import View
from phys4d.simulation.stage.materials import MATERIALS, saturated
from phys4d.simulation.world.mjcf import GEOM_TYPE, Mjcf, pose, text
from phys4d.simulation.world.play import Drive
from phys4d.simulation.world.thing import Thing

PASSIVE = {"contype": "0", "conaffinity": "0"}
LYING = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)  # takes a cylinder's axis to y
GREY = (0.42, 0.43, 0.45)
# A contact's spring has settled after about twice this time; it gives way by about 1 cm at 3 m/s.
CONTACT_TIME = 0.004  # s


@dataclass(frozen=True)
class Make:
    """What a part is made of; density in kg/m3."""

    colour: str
    material: str
    rgb: Colour
    density: float
    friction: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material}"

    @property
    def texture(self) -> Texture:
        return MATERIALS[self.material].texture

    def thing(
        self,
        name: str,
        geoms: Sequence[str],
        *,
        shades: Sequence[float] = (),
        coarser: int = 0,
        dynamic: bool = True,
    ) -> Thing:
        """The parts with these geoms as one instance, such as "red wood door"."""
        about = {"material": self.material, "density": self.density, "friction": self.friction}
        return Thing(
            name=f"{self.name} {name}", rgb=self.rgb, texture=self.texture, geoms=tuple(geoms), shades=tuple(shades),
            coarser=coarser, dynamic=dynamic, about=about,
        )  # fmt: skip


def make(random: np.random.Generator, colour: str, materials: Sequence[str]) -> Make:
    """One of these materials, in a strong tone of the named colour."""
    material = str(random.choice(list(materials)))
    kind = MATERIALS[material]
    return Make(
        colour, material, saturated(colour, random), random.uniform(*kind.density), random.uniform(*kind.friction)
    )


def mount(name: str, geoms: Sequence[str], rgb: Colour = GREY, texture: Texture = Texture.PLAIN) -> Thing:
    """What carries a machine and never moves, as one instance."""
    return Thing(name=name, rgb=rgb, texture=texture, geoms=tuple(geoms), dynamic=False)


def firm_contacts(model: Mjcf) -> None:
    """Makes all contacts as firm as CONTACT_TIME says, with friction against turning on the spot."""
    contact = {"solref": text(CONTACT_TIME, 1), "solimp": text(0.95, 0.99, 0.001, 0.5, 2), "condim": "4"}
    Xml.SubElement(model.section("default"), "geom", contact)


def part(
    parent: Xml.Element,
    name: str,
    position: Sequence[float] | np.ndarray = (0, 0, 0),
    quaternion: Sequence[float] | np.ndarray = (1, 0, 0, 0),
) -> Xml.Element:
    """A body in its parent's axes; it is fixed to the parent until it has a joint."""
    return Xml.SubElement(parent, "body", pose(position, quaternion), name=name)


def solid(
    parent: Xml.Element,
    name: str,
    shape: str,
    size: Sequence[float],
    position: Sequence[float] | np.ndarray = (0, 0, 0),
    quaternion: Sequence[float] | np.ndarray = (1, 0, 0, 0),
    make: Make | None = None,
    *,
    touches: bool = True,
    weightless: bool = False,
) -> str:
    """Adds a geom to a body and returns its name; sizes as in `shapes.mesh`.

    touches: whether it collides with what is not a part of its own body. weightless: has no mass.
    """
    attributes = ({} if touches else PASSIVE) | ({"mass": "0"} if weightless else {})
    matter = {} if make is None else {"density": text(make.density), "friction": text(make.friction, 0.005, 0.0001)}
    geom = {"type": GEOM_TYPE[shape], "size": text(*size)} | pose(position, quaternion) | matter | attributes
    Xml.SubElement(parent, "geom", geom, name=name)
    return name


def hinge(
    parent: Xml.Element,
    name: str,
    axis: Sequence[float],
    position: Sequence[float] = (0, 0, 0),
    *,
    limits: tuple[float, float] | None = None,
    damping: float = 0.0,
    friction: float = 0.0,
) -> None:
    """A hinge in the body's own axes: limits in radians, damping in N m s, dry friction in N m."""
    joint = {"axis": text(*axis), "pos": text(*position), "damping": text(damping), "frictionloss": text(friction)}
    if limits is not None:
        joint |= {"limited": "true", "range": text(*map(degrees, limits)), "solreflimit": text(CONTACT_TIME, 1)}
    Xml.SubElement(parent, "joint", joint, name=name, type="hinge")


def launch(view: View, bodies: Mapping[str, Body]) -> Drive:
    """Sets the first velocities of free bodies, by the name of their joint."""

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


def both(*starts: Drive) -> Drive:
    """One after the other."""

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for each in starts:
            each(model, data)

    return start


def begin(angles: Mapping[str, float], velocities: Mapping[str, float] | None = None) -> Drive:
    """Sets the first angles (radians or metres) and velocities of hinges and slides, by name."""

    def start(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, angle in angles.items():
            data.qpos[model.joint(name).qposadr[0]] = angle
        for name, velocity in (velocities or {}).items():
            data.qvel[model.joint(name).dofadr[0]] = velocity

    return start
