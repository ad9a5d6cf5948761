"""Grains in MuJoCo: hundreds of spheres that slide and roll against each other with friction."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Room
from phys4d.simulation.stage.materials import saturated
from phys4d.simulation.world.mjcf import Mjcf, text
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import Thing

STEPS_PER_SECOND = 480
# About seven steps: grains press into each other by up to a fifth of a radius when they land, a fiftieth at rest.
CONTACT_TIME = 0.005  # s
# The fastest that stays accurate for hundreds of contacts (Newton takes three times as long).
SOLVER = {"solver": "CG", "iterations": "10", "tolerance": "1e-5"}
UNEVEN = 0.12  # share by which radii differ at most
SHADES = (0.72, 1.12)


@dataclass(frozen=True)
class Grains:
    """What grains are made of. radius: metres, of the largest. density: kg/m3. rolling: metres, friction against
    rolling over normal force."""

    colour: str
    stuff: str
    rgb: Colour
    radius: float
    density: float
    friction: float
    rolling: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.stuff}"


STUFFS = {
    # name: density in kg/m3, friction, friction against rolling in radii
    "pebbles": ((2500, 2700), (0.6, 0.75), (0.35, 0.5)),
    "beans": ((1150, 1300), (0.4, 0.5), (0.2, 0.3)),
    "beads": ((900, 1100), (0.25, 0.35), (0.05, 0.1)),
}


def grains(random: np.random.Generator, colour: str, radius: float, stuffs: Sequence[str] = tuple(STUFFS)) -> Grains:
    """Grains of one of these stuffs, the largest of this radius in metres."""
    stuff = str(random.choice(list(stuffs)))
    density, friction, rolling = STUFFS[stuff]
    return Grains(
        colour, stuff, saturated(colour, random), radius, random.uniform(*density), random.uniform(*friction),
        radius * random.uniform(*rolling),
    )  # fmt: skip


def granular_model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model whose contacts suit grains."""
    model = Mjcf(room, props, **SOLVER)
    contact = {"solref": text(CONTACT_TIME, 1), "solimp": text(0.9, 0.95, 0.001, 0.5, 2)}
    Xml.SubElement(model.section("default"), "geom", contact)
    return model


def fill(
    model: Mjcf, random: np.random.Generator, kind: Grains, places: np.ndarray, *, rolls_freely: bool = False
) -> Thing:
    """Puts a grain at each world place [N, 3], up to UNEVEN smaller than the largest, and makes them one thing.

    rolls_freely: without friction against rolling, which takes less than half the time and hardly matters in a bed.

    A grain keeps its name "grain0"... in the order of the places.
    """
    radii = kind.radius * (1 - random.uniform(0, UNEVEN, len(places)))
    shades = random.uniform(*SHADES, len(places))
    contact = {
        "condim": "3" if rolls_freely else "6",
        "friction": text(kind.friction, 0.1 * kind.rolling, kind.rolling),
    }
    for number, (place, radius) in enumerate(zip(places, radii, strict=True)):
        body = Xml.SubElement(model.world, "body", pos=text(*place))
        Xml.SubElement(body, "freejoint")
        shape = {"type": "sphere", "size": text(radius), "density": text(kind.density)}
        Xml.SubElement(body, "geom", shape | contact, name=f"grain{number}")
    about = {
        "grains": len(places), "radius": kind.radius, "density": kind.density, "friction": kind.friction,
        "rolling_friction": 0.0 if rolls_freely else kind.rolling,
    }  # fmt: skip
    return Thing(
        name=kind.name, rgb=kind.rgb, texture=Texture.GRIT, geoms=tuple(f"grain{i}" for i in range(len(places))),
        shades=tuple(float(shade) for shade in shades), about=about,
    )  # fmt: skip


def packed(radius: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Centres [N, 3] of spheres of this radius in closest packing, in level layers, in the box from low to high.

    The spheres stay inside the box and just touch.
    """
    step = 2.001 * radius
    row, layer = step * np.sqrt(3) / 2, step * np.sqrt(2 / 3)
    count = np.ceil((high - low) / np.array([step, row, layer])).astype(int) + 2
    k, j, i = np.meshgrid(*(np.arange(n) for n in count[::-1]), indexing="ij")
    x = i * step + (j % 2) * step / 2 + (k % 2) * step / 2
    y = j * row + (k % 2) * row / 3
    points = low + radius + np.stack([x, y, k * layer], axis=-1).reshape(-1, 3)
    return points[(points <= high - radius + 1e-9).all(axis=1)]


def heights(play: Play) -> np.ndarray:
    """Heights float64 [T, N] in metres of the grains' centres."""
    return np.stack([track.position[:, 2] for name, track in play.geoms.items() if name.startswith("grain")], axis=1)
