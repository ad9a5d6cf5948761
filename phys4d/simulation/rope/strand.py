"""A rope in MuJoCo: capsules on ball joints along any curve, with equal links."""

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation.body import Body, Colour
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.stage.materials import saturated
from phys4d.simulation.world.mjcf import GEOM_TYPE, Mjcf, pose, text
from phys4d.simulation.world.thing import Thing

# Less of either and the chain becomes unstable.
ARMATURE = 1e-3  # kg m2 of each joint
DAMPING = 2e-3  # N m s of each joint
CONTACT_TIME = 0.005  # s, of the contacts' spring
STEPS_PER_SECOND = 1200
LINKS = 32
CLEAR = 2.3  # radii between the ends of two links that can touch


@dataclass(frozen=True)
class Rope:
    """What a rope is made of: radius in metres, density in kg/m3."""

    colour: str
    rgb: Colour
    radius: float
    density: float
    friction: float

    @property
    def name(self) -> str:
        return f"{self.colour} rope"

    def thing(self, links: list[str]) -> Thing:
        """The rope with these links as one instance."""
        about = {"radius": self.radius, "density": self.density, "friction": self.friction}
        return Thing(name=self.name, rgb=self.rgb, texture=Texture.TWIST, geoms=tuple(links), about=about)


def rope(random: np.random.Generator, colour: str) -> Rope:
    """A rope as thick as shows in a small picture."""
    return Rope(
        colour, saturated(colour, random), random.uniform(0.018, 0.024), random.uniform(850, 1150),
        random.uniform(0.35, 0.55),
    )  # fmt: skip


def soft_contacts(model: Mjcf) -> None:
    """Makes all contacts as firm as CONTACT_TIME says."""
    contact = {"solref": text(CONTACT_TIME, 1), "solimp": text(0.95, 0.99, 0.001, 0.5, 2)}
    Xml.SubElement(model.section("default"), "geom", contact)


def lay(
    model: Mjcf, rope: Rope, points: np.ndarray, *, name: str = "link", pinned: bool = False
) -> tuple[list[str], Xml.Element, Xml.Element]:
    """Puts a rope along joints at world points [N + 1, 3], equal distances apart.

    pinned: its first point stays where it is. Returns the links' geoms in order, the body of the first and of
    the last one.
    Raises ValueError where the distances differ by more than 1 %.
    """
    way = np.diff(points, axis=0)
    length = np.linalg.norm(way, axis=1)
    if np.ptp(length) > 0.01 * length.mean():
        raise ValueError(f"links of {length.min()} to {length.max()} m: expected equal ones")
    half = float(length.mean()) / 2
    turn = frames(way / length[:, None])
    parent, before = model.world, np.eye(3)
    links = []
    for number, axes in enumerate(turn):
        where = points[0] if number == 0 else (0, 0, 2 * half)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, (before.T @ axes).ravel())
        parent = Xml.SubElement(parent, "body", pose(where, quaternion), name=f"{name}{number}")
        if number == 0 and not pinned:
            Xml.SubElement(parent, "freejoint")
        else:
            Xml.SubElement(parent, "joint", type="ball", damping=text(DAMPING), armature=text(ARMATURE))
        shape = {"type": "capsule", "size": text(rope.radius, half), "pos": text(0, 0, half)}
        matter = {"density": text(rope.density), "friction": text(rope.friction, 0.005, 0.0001)}
        Xml.SubElement(parent, "geom", shape | matter, name=f"{name}{number}")
        # Links that overlap or touch where the rope is straight are its inside, not a contact.
        for other in range(max(number - 1 - int(CLEAR * rope.radius / (2 * half)), 0), number):
            untouched(model, f"{name}{other}", f"{name}{number}")
        links.append(f"{name}{number}")
        before = axes
    first = model.world.find(f"body[@name='{name}0']")
    assert first is not None
    return links, first, parent


def untouched(model: Mjcf, first: str, second: str) -> None:
    """Lets two bodies pass through each other."""
    Xml.SubElement(model.section("contact"), "exclude", {"body1": first, "body2": second})


def hang(model: Mjcf, parent: Xml.Element, links: list[str], body: Body, name: str, offset: float) -> None:
    """Fixes a rigid body to a rope's end: to the body of that link, its centre at `offset` along the link's z; metres.

    links: the rope's, from that end on; the nearest four do not touch the body.
    """
    element = Xml.SubElement(parent, "body", pos=text(0, 0, offset), name=name)
    shape = {"type": GEOM_TYPE[body.shape], "size": text(*body.size)}
    matter = {"density": text(body.density), "friction": text(body.friction, 0.005, 0.0001)}
    Xml.SubElement(element, "geom", shape | matter, name=name)
    for link in links[:4]:
        untouched(model, link, name)


def frames(directions: np.ndarray) -> np.ndarray:
    """Axes [N, 3, 3] in columns whose z are these unit directions [N, 3], each turned from the last without twist."""
    z = directions[0]
    x = np.cross(z, np.eye(3)[np.abs(z).argmin()])
    out = []
    for z in directions:
        x = x - z * (x @ z)
        x = x / np.linalg.norm(x)
        out.append(np.stack([x, np.cross(z, x), z], axis=1))
    return np.array(out)


def along(curve: Callable[[np.ndarray], np.ndarray], links: int = LINKS) -> np.ndarray:
    """Points [links + 1, 3] on a curve (parameters [N] from 0 to 1 to positions [N, 3]), equal distances apart.

    Distances are of the straight links, not of the curve between them.
    """
    parameter = np.linspace(0, 1, links + 1)
    for _ in range(20):
        so_far = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve(parameter), axis=0), axis=1))])
        parameter = np.interp(np.linspace(0, so_far[-1], links + 1), so_far, parameter)
    return curve(parameter)
