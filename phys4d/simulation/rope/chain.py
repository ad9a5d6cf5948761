"""A rope in MuJoCo: a chain of capsules on ball joints along any curve, with links of equal length."""

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation.body import Body, Colour
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.mujoco_scenes.mjcf import GEOM_TYPE, Mjcf, contact_of, pose, text
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject
from phys4d.simulation.scenery.materials import saturated

# With smaller values the chain is unstable.
ARMATURE = 1e-3  # kg m2 of each joint
DAMPING = 2e-3  # N m s of each joint
CONTACT_TIME = 0.005  # s, of the contacts' spring
STEPS_PER_SECOND = 1200
# For free swings: this integrator conserves energy, with half as many steps.
SWINGING = "RK4"
SWINGING_STEPS_PER_SECOND = 600
LINKS = 32
CLEAR = 2.3  # least distance between the ends of two links that can collide, over the radius


@dataclass(frozen=True)
class RopeMaterial:
    """Pattern and ranges (low, high) of a rope's physical parameters: density in kg/m3, with its air, and the Coulomb
    coefficient.
    """

    texture: Texture
    density: tuple[float, float]
    friction: tuple[float, float]


# Braided cotton, laid hemp, and braided nylon, which is smooth.
ROPES = {
    "cotton": RopeMaterial(Texture.KNIT, (850, 950), (0.45, 0.55)),
    "hemp": RopeMaterial(Texture.TWIST, (950, 1050), (0.35, 0.45)),
    "nylon": RopeMaterial(Texture.WEAVE, (1050, 1150), (0.12, 0.2)),
}


@dataclass(frozen=True)
class Rope:
    """Properties of a rope.

    material: name in ROPES.
    colour, rgb: name of the hue, and the colour in 0..1.
    radius: metres.
    density: kg/m3.
    friction: Coulomb coefficient.
    """

    material: str
    colour: str
    rgb: Colour
    radius: float
    density: float
    friction: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material} rope"

    def scene_object(self, links: list[str]) -> SceneObject:
        """The rope with these links as one instance."""
        about = {
            "material": self.material, "radius": self.radius, "density": self.density, "friction": self.friction,
        }  # fmt: skip
        texture = ROPES[self.material].texture
        return SceneObject(name=self.name, rgb=self.rgb, texture=texture, geoms=tuple(links), about=about)


def sample_rope(
    rng: np.random.Generator, colour: str, radius: tuple[float, float] = (0.018, 0.024),
    materials: tuple[str, ...] = tuple(ROPES),
) -> Rope:  # fmt: skip
    """Samples a rope, thick enough to be visible in a small image.

    colour: name of a hue.
    radius: range in metres.
    materials: names in ROPES.
    """
    material = str(rng.choice(list(materials)))
    kind = ROPES[material]
    return Rope(
        material, colour, saturated(colour, rng), rng.uniform(*radius), rng.uniform(*kind.density),
        rng.uniform(*kind.friction),
    )  # fmt: skip


def set_soft_contacts(model: Mjcf) -> None:
    """Sets the stiffness of all contacts by CONTACT_TIME."""
    contact = {"solref": text(CONTACT_TIME, 1), "solimp": text(0.95, 0.99, 0.001, 0.5, 2)}
    Xml.SubElement(model.section("default"), "geom", contact)


def add_rope(
    model: Mjcf, rope: Rope, points: np.ndarray, *, name: str = "link", pinned: bool = False
) -> tuple[list[str], Xml.Element, Xml.Element]:
    """Adds a rope whose joints are at given points.

    model: model to extend.
    rope: its properties.
    points: [N + 1, 3], world metres, equidistant.
    name: prefix of the links' names.
    pinned: the first point is fixed.

    Returns the names of the links' geoms in order, and the bodies of the first and the last link. Raises ValueError if
    the distances differ by more than 1 %.
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
        # Links that overlap or touch in a straight rope must not collide.
        for other in range(max(number - 1 - int(CLEAR * rope.radius / (2 * half)), 0), number):
            exclude_contact(model, f"{name}{other}", f"{name}{number}")
        links.append(f"{name}{number}")
        before = axes
    first = model.world.find(f"body[@name='{name}0']")
    assert first is not None
    return links, first, parent


def exclude_contact(model: Mjcf, first: str, second: str) -> None:
    """Disables contacts between two bodies."""
    Xml.SubElement(model.section("contact"), "exclude", {"body1": first, "body2": second})


def attach_body(model: Mjcf, parent: Xml.Element, links: list[str], body: Body, name: str, offset: float) -> None:
    """Attaches a rigid body to the link at a rope's end.

    model: model that contains both.
    parent: MJCF body of the link.
    links: the rope's links from that end on; the nearest four do not collide with the body.
    body: shape and material.
    name: of the new body and geom.
    offset: metres from the link's origin to the body's centre along the link's z axis.
    """
    element = Xml.SubElement(parent, "body", pos=text(0, 0, offset), name=name)
    shape = {"type": GEOM_TYPE[body.shape], "size": text(*body.size)}
    matter = {"density": text(body.density)} | contact_of(body)
    Xml.SubElement(element, "geom", shape | matter, name=name)
    for link in links[:4]:
        exclude_contact(model, link, name)


def frames(directions: np.ndarray) -> np.ndarray:
    """Rotation matrices [N, 3, 3] (axes in columns) whose z axes are these unit directions [N, 3], without twist."""
    z = directions[0]
    x = np.cross(z, np.eye(3)[np.abs(z).argmin()])
    out = []
    for z in directions:
        x = x - z * (x @ z)
        x = x / np.linalg.norm(x)
        out.append(np.stack([x, np.cross(z, x), z], axis=1))
    return np.array(out)


def equidistant_points(curve: Callable[[np.ndarray], np.ndarray], links: int = LINKS) -> np.ndarray:
    """Equidistant points [links + 1, 3] on a curve; distances are along the straight links, not along the curve.

    curve: parameters [N] from 0 to 1 -> positions [N, 3], metres.
    links: number of links.
    """
    parameter = np.linspace(0, 1, links + 1)
    for _ in range(20):
        so_far = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve(parameter), axis=0), axis=1))])
        parameter = np.interp(np.linspace(0, so_far[-1], links + 1), so_far, parameter)
    return curve(parameter)
