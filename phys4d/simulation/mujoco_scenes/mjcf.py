"""MuJoCo models in XML (MJCF): the room with its props, and elements that families add."""

from collections.abc import Sequence
from typing import Protocol
from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.body import Body, Prop
from phys4d.simulation.scene import Room
from phys4d.simulation.scenery.materials import FLOOR_FRICTION, round_contact

# Contact attributes of a rigid body among flexes: as stiff as steps of 1/240 s allow.
FIRM = {"priority": "1", "solref": "0.01 1"}
# Contacts are stiff: at MuJoCo's 1e-8 its Newton solver stops where forces are still off by up to their own size.
TOLERANCE = "1e-16"
GEOM_TYPE = {"ball": "sphere", "box": "box", "cylinder": "cylinder", "capsule": "capsule"}


class Mjcf:
    """A model under construction; it starts with the geoms "floor", those of `Room.walls`, "prop0", "prop1", ...

    Families add bodies to `world`. By MuJoCo's default every geom collides with every other (contype, conaffinity).

    room: floor and wall.
    props: static objects.
    options: attributes of MuJoCo's <option>, such as solver="CG" or integrator="discrete".
    """

    def __init__(self, room: Room, props: Sequence[Prop] = (), **options: str) -> None:
        self.root = Xml.Element("mujoco")
        option = Xml.SubElement(self.root, "option", {"tolerance": TOLERANCE} | options)
        # Otherwise MuJoCo resets to the first pose when the state is NaN.
        Xml.SubElement(option, "flag", autoreset="disable")
        Xml.SubElement(self.root, "size", memory="256M")
        self.world = Xml.SubElement(self.root, "worldbody")
        ground = {"type": "plane", "size": "0 0 1", "friction": text(FLOOR_FRICTION, 0, 0)}
        Xml.SubElement(self.world, "geom", ground, name="floor")
        for name, (point, normal) in room.walls().items():
            Xml.SubElement(self.world, "geom", ground, name=name, pos=text(*point), zaxis=text(*normal))
        for number, prop in enumerate(props):
            friction = text(prop.friction, 0, 0)
            shape = geom_shape(self.root, prop, f"prop{number}") | {"friction": friction}
            Xml.SubElement(self.world, "geom", shape | pose(prop.position, prop.quaternion), name=f"prop{number}")
        self._sections: dict[str, Xml.Element] = {}

    def section(self, name: str) -> Xml.Element:
        """The top-level element of this name, such as "contact", "equality" or "deformable"; created on first use."""
        if name not in self._sections:
            self._sections[name] = Xml.SubElement(self.root, name)
        return self._sections[name]

    def text(self) -> str:
        """The model as MJCF text."""
        return Xml.tostring(self.root, encoding="unicode")


def add_body(parent: Xml.Element, body: Body, name: str, **geom: str) -> Xml.Element:
    """Adds a free rigid body with one geom; body, joint and geom have the same name.

    parent: MJCF element that contains the body.
    body: shape, pose and material.
    name: of body, joint and geom.
    geom: further attributes of the geom, as in MJCF.
    """
    element = Xml.SubElement(parent, "body", pose(body.position, body.quaternion), name=name)
    Xml.SubElement(element, "freejoint", name=name)
    shape = {"type": GEOM_TYPE[body.shape], "size": text(*body.size), "density": text(body.density)}
    Xml.SubElement(element, "geom", shape | contact_of(body) | geom, name=name)
    return element


class HasFriction(Protocol):
    """A body or part with the friction of its material."""

    @property
    def friction(self) -> float:
        """Coulomb coefficient."""

    @property
    def rolling_friction(self) -> float:
        """Metres, lever arm of the resistance to rolling."""


def contact_of(body: HasFriction) -> dict[str, str]:
    """MJCF attributes of a geom with the friction of a body's material: against sliding, spinning and rolling.

    MuJoCo applies the larger coefficient of two geoms, and the last two from condim 6 on only.
    """
    return {"friction": text(*round_contact(body.friction, body.rolling_friction)), "condim": "6"}


def later_name(number: int) -> str:
    """Name of the body, joint and geom of later event number `number`."""
    return f"later{number}"


def with_held_body(model: str, body: Body, name: str, holder: Prop) -> str:
    """An MJCF model with one more body, on a holder, for `holding.Holding`.

    model: MJCF text.
    body: the body.
    name: of its body, joint and geom.
    holder: what it hangs from.
    """
    root = Xml.fromstring(model)
    world = root.find("worldbody")
    assert world is not None
    firm = FIRM if root.find("deformable") is not None else {}
    add_body(world, body, name, **firm).set("gravcomp", "1")
    _add_prop(root, world, holder, f"{name} holder")
    return Xml.tostring(root, encoding="unicode")


def with_props(model: str, props: Sequence[Prop]) -> str:
    """An MJCF model with props that stand around; model: MJCF text."""
    root = Xml.fromstring(model)
    world = root.find("worldbody")
    assert world is not None
    for number, prop in enumerate(props):
        _add_prop(root, world, prop, f"around{len(world)}_{number}")
    return Xml.tostring(root, encoding="unicode")


def _add_prop(root: Xml.Element, world: Xml.Element, prop: Prop, name: str) -> None:
    shape = geom_shape(root, prop, name) | {"friction": text(prop.friction, 0, 0)}
    Xml.SubElement(world, "geom", shape | pose(prop.position, prop.quaternion), name=name)


def geom_shape(root: Xml.Element, thing: Body | Prop, name: str) -> dict[str, str]:
    """MJCF attributes of the shape of a geom; of an asset, the convex hull is added to the model as a mesh.

    root: of the model.
    thing: what has the shape.
    name: of the mesh, unique in the model.
    """
    if thing.asset is None:
        return {"type": GEOM_TYPE[thing.shape], "size": text(*thing.size)}
    section = root.find("asset")
    section = Xml.SubElement(root, "asset") if section is None else section
    corners, faces = text(*thing.asset.hull.ravel()), " ".join(map(str, thing.asset.hull_faces.ravel()))
    Xml.SubElement(section, "mesh", name=name, vertex=corners, face=faces)
    return {"type": "mesh", "mesh": name}


def disable_contacts(mjcf: Mjcf, names: str) -> None:
    """Disables all contacts of the geoms whose name begins with `names`."""
    for geom in mjcf.world.iter("geom"):
        if geom.get("name", "").startswith(names):
            geom.set("contype", "0")
            geom.set("conaffinity", "0")


def pose(
    position: Sequence[float] | np.ndarray, quaternion: Sequence[float] | np.ndarray = (1, 0, 0, 0)
) -> dict[str, str]:
    """MJCF attributes of a pose: position in metres, quaternion (w, x, y, z)."""
    return {"pos": text(*position), "quat": text(*quaternion)}


def text(*numbers: float) -> str:
    """Numbers as an MJCF attribute, without rounding."""
    return " ".join(repr(float(number)) for number in numbers)
