"""Grains in MuJoCo: hundreds of spheres with sliding and rolling friction."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, text
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject
from phys4d.simulation.scene import Room
from phys4d.simulation.scenery.materials import saturated

STEPS_PER_SECOND = 480
# Time constant of contacts, 2.4 steps. Grains penetrate each other by up to 1/5 radius on impact, 1/50 at rest.
CONTACT_TIME = 0.005  # s
# Of the CG solver, fast enough for hundreds of contacts (the Newton solver takes seven times as long). Stopped after 14
# iterations at 1e-5, impulses differed from the momentum by half, and heaps spread by a tenth more.
TOLERANCE, ITERATIONS = "1e-10", "100"
UNEVEN = 0.12  # largest relative reduction of a grain's radius
SHADES = (0.72, 1.12)


@dataclass(frozen=True)
class Grains:
    """Properties of grains.

    colour, rgb: name of the hue, and the colour in 0..1.
    material: name in GRAIN_MATERIALS.
    radius: metres, of the largest grain.
    density: kg/m3.
    friction: Coulomb coefficient.
    rolling: metres, coefficient of rolling friction.
    """

    colour: str
    material: str
    rgb: Colour
    radius: float
    density: float
    friction: float
    rolling: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material}"


GRAIN_MATERIALS = {
    # name: density in kg/m3, friction, friction against rolling in radii
    "pebbles": ((2500, 2700), (0.6, 0.75), (0.35, 0.5)),
    "beans": ((1150, 1300), (0.4, 0.5), (0.2, 0.3)),
    "beads": ((900, 1100), (0.25, 0.35), (0.05, 0.1)),
}


def sample_grains(
    rng: np.random.Generator, colour: str, radius: float, materials: Sequence[str] = tuple(GRAIN_MATERIALS)
) -> Grains:
    """Grains of one of these stuffs, the largest of this radius in metres."""
    material = str(rng.choice(list(materials)))
    density, friction, rolling = GRAIN_MATERIALS[material]
    return Grains(
        colour, material, saturated(colour, rng), radius, rng.uniform(*density), rng.uniform(*friction),
        radius * rng.uniform(*rolling),
    )  # fmt: skip


def granular_model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model with contact and solver settings for grains; room, props: floor, wall and static objects."""
    model = Mjcf(room, props, solver="CG", iterations=ITERATIONS, tolerance=TOLERANCE)
    contact = {"solref": text(CONTACT_TIME, 1), "solimp": text(0.9, 0.95, 0.001, 0.5, 2)}
    Xml.SubElement(model.section("default"), "geom", contact)
    return model


def add_grains(
    model: Mjcf, rng: np.random.Generator, grains: Grains, places: np.ndarray, *, without_rolling_friction: bool = False
) -> SceneObject:
    """Adds one grain at each world position and returns them as one scene object; grain i is the geom "grain<i>".

    model: model to extend.
    rng: samples radii and shades.
    grains: properties of the grains.
    places: [N, 3], world metres.
    without_rolling_friction: takes less than half of the time, and hardly matters in a bed of grains.
    """
    radii = grains.radius * (1 - rng.uniform(0, UNEVEN, len(places)))
    shades = rng.uniform(*SHADES, len(places))
    contact = {
        "condim": "3" if without_rolling_friction else "6",
        "friction": text(grains.friction, 0.1 * grains.rolling, grains.rolling),
    }
    for number, (place, radius) in enumerate(zip(places, radii, strict=True)):
        body = Xml.SubElement(model.world, "body", pos=text(*place))
        Xml.SubElement(body, "freejoint")
        shape = {"type": "sphere", "size": text(radius), "density": text(grains.density)}
        Xml.SubElement(body, "geom", shape | contact, name=f"grain{number}")
    about = {
        "grains": len(places), "radius": grains.radius, "density": grains.density, "friction": grains.friction,
        "rolling_friction": 0.0 if without_rolling_friction else grains.rolling,
    }  # fmt: skip
    return SceneObject(
        name=grains.name, rgb=grains.rgb, texture=Texture.GRIT, geoms=tuple(f"grain{i}" for i in range(len(places))),
        shades=tuple(float(shade) for shade in shades), about=about,
    )  # fmt: skip


def closest_packing(radius: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Centres [N, 3] of touching spheres in closest packing, in level layers, that fit into the box from `low` to
    `high`.

    radius: metres.
    low, high: [3], metres, corners of the box.
    """
    step = 2.001 * radius
    row, layer = step * np.sqrt(3) / 2, step * np.sqrt(2 / 3)
    count = np.ceil((high - low) / np.array([step, row, layer])).astype(int) + 2
    k, j, i = np.meshgrid(*(np.arange(n) for n in count[::-1]), indexing="ij")
    x = i * step + (j % 2) * step / 2 + (k % 2) * step / 2
    y = j * row + (k % 2) * row / 3
    points = low + radius + np.stack([x, y, k * layer], axis=-1).reshape(-1, 3)
    return points[(points <= high - radius + 1e-9).all(axis=1)]


def grain_heights(rollout: Rollout) -> np.ndarray:
    """Heights of the grains' centres, float64 [T, N], metres."""
    return np.stack([track.position[:, 2] for name, track in rollout.geoms.items() if name.startswith("grain")], axis=1)
