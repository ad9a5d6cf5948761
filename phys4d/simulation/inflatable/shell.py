"""Inflatables: closed shells with gas inside, their materials, and how they are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import mujoco
import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.inflatable.gas import ATMOSPHERE, Gas, add_gas, volumes
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scene import Room, Unstable, View
from phys4d.simulation.stage import staging
from phys4d.simulation.stage.materials import saturated
from phys4d.simulation.world import lattice
from phys4d.simulation.world.flex import Elastic, add_flex, areas, lumped
from phys4d.simulation.world.mjcf import Mjcf
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.points import Points
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import Thing

STEPS_PER_SECOND = 360
POISSON = 0.4
DAMPING = 0.001  # s
THICKNESS = 1.5e-3  # metres, that of the shell's stiffness; it is drawn without any
RADIUS = 0.004
CONTACT = (0.006, 1.0)  # time constant in s and damping ratio
PENETRATION = 0.02
OFF_LAW = 0.1  # share by which a volume may differ from what the law gives at three times the highest gauge pressure

ShellShape = Literal["ball", "cushion"]


@dataclass(frozen=True)
class Shell:
    """An inflatable: radii in metres along its axes without gas, stiffness against stretching in N/m, mass in kg.

    gauge: pressure above the atmosphere's, Pa, at first.
    """

    shape: ShellShape
    colour: str
    rgb: Colour
    radii: tuple[float, float, float]
    stretching: float
    mass: float
    friction: float
    gauge: float
    frequency: int

    @property
    def name(self) -> str:
        return f"{self.colour} {'balloon' if self.shape == 'ball' else 'air cushion'}"

    @cached_property
    def _mesh(self) -> tuple[np.ndarray, np.ndarray]:
        return lattice.geodesic(self.frequency)

    @property
    def triangles(self) -> np.ndarray:
        return self._mesh[1]

    @property
    def rest(self) -> np.ndarray:
        """Its points [N, 3] in metres around its centre, without tension."""
        unit = self._mesh[0]
        if self.shape == "cushion":
            unit = lattice.pillow(unit)
        return unit * np.array(self.radii)

    @property
    def volume(self) -> float:
        """m3, without tension."""
        return float(volumes(self.rest, self.triangles))

    @property
    def swelling(self) -> float:
        """Strain at which the tension of a ball of about this size balances the gauge pressure."""
        radius = float(np.cbrt(np.prod(self.radii)))
        return self.gauge * radius * (1 - POISSON) / (2 * self.stretching)

    @property
    def amount(self) -> float:
        """Air inside at first, as m3 in the open."""
        return (1 + self.gauge / ATMOSPHERE) * self.volume * (1 + self.swelling) ** 3

    @property
    def elastic(self) -> Elastic:
        return Elastic(
            young=self.stretching / THICKNESS, poisson=POISSON, damping=DAMPING, thickness=THICKNESS
        )


def shell(
    random: np.random.Generator,
    colour: str,
    shape: ShellShape,
    radii: tuple[float, float, float],
    *,
    gauge: float,
    stretching: tuple[float, float],
    density: tuple[float, float] = (0.25, 0.4),
    frequency: int = 5,
) -> Shell:
    """An inflatable with a gauge pressure in Pa; stretching: range in N/m; density: range of its skin in kg/m2."""
    unit, triangles = lattice.geodesic(frequency)
    skin = float(areas(unit * np.array(radii), triangles).sum())
    return Shell(
        shape, colour, saturated(colour, random), (float(radii[0]), float(radii[1]), float(radii[2])),
        random.uniform(*stretching), skin * random.uniform(*density), random.uniform(0.6, 0.8), gauge, frequency,
    )  # fmt: skip


def model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model for shells: implicit in their stiffness and in that of the gas."""
    return Mjcf(room, props, integrator="discrete", solver="CG", tolerance="1e-6", iterations="60")


def add_shell(
    mjcf: Mjcf, body: Shell, name: str, position: np.ndarray, turn: np.ndarray | None = None, *, touches: bool = False
) -> None:
    """Adds the flex `name` with gas at a place in world metres, turned by a matrix; touches: its own parts do."""
    points, triangles = body.rest, body.triangles
    share = areas(points, triangles)
    mass = lumped(share / share.sum() * body.mass, triangles, len(points))
    turned = points if turn is None else points @ turn.T
    add_flex(
        mjcf, name, turned + position, triangles, mass, body.elastic,
        friction=body.friction, radius=RADIUS, selfcollide=touches, solref=CONTACT,
    )  # fmt: skip
    add_gas(mjcf, name, len(points))


class Inflated:
    """Starts a scene with shells swollen by what their pressure asks for; shells: by the name of their flex."""

    def __init__(self, shells: Mapping[str, Shell], gases: Mapping[str, Gas]) -> None:
        self.shells, self.gases = shells, gases

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, body in self.shells.items():
            points = Points(model, name)
            place = points.position(data)
            data.qpos[points.coordinate] += (body.swelling * (place - place.mean(axis=0))).ravel()
            self.gases[name](model, data)


def thing(body: Shell, name: str) -> Thing:
    """The flex `name` as it is seen."""
    about = {
        "shape": body.shape, "material": "rubber skin", "size": [2 * radius for radius in body.radii],
        "mass": body.mass, "stretching_stiffness": body.stretching, "bending_rigidity": body.elastic.bending,
        "friction": body.friction, "gauge_pressure": body.gauge, "air_at_atmospheric_pressure": body.amount,
    }  # fmt: skip
    return Thing(
        name=body.name, rgb=body.rgb, texture=Texture.LATEX, flex=name, smooth=1, rest=body.rest, about=about
    )  # fmt: skip


def scene(
    random: np.random.Generator,
    family: str,
    view: View,
    room: Room,
    mjcf: Mjcf,
    shells: Mapping[str, tuple[Shell, Gas]],
    things: tuple[Thing, ...],
    caption: str,
    happened: Callable[[Play], str | None],
    *,
    props: tuple[Prop, ...] = (),
) -> WorldScene:
    """A scene with shells, by the name of their flex, each with its gas."""
    gases = {name: gas for name, (_, gas) in shells.items()}

    def drive(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for gas in gases.values():
            gas(model, data)

    def happened_by_law(play: Play) -> str | None:
        for name, (body, gas) in shells.items():
            refuse_off_law(play, name, body, gas)
        return happened(play)

    return WorldScene(
        family=family, kind="inflatable", room=room, view=view, light=staging.light(random), props=props,
        things=things, model=mjcf.text(), caption=caption, steps_per_second=STEPS_PER_SECOND, happened=happened_by_law,
        start=Inflated({name: body for name, (body, _) in shells.items()}, gases), drive=drive,
        physics={
            "atmospheric_pressure": ATMOSPHERE,
            "gas_law": "isothermal ideal gas",
            "air_inflow": {name: gas.rate for name, gas in gases.items()},
        },
        penetration=PENETRATION, closed=False,
    )  # fmt: skip


def refuse_off_law(play: Play, name: str, body: Shell, gas: Gas) -> None:
    """Raises Unstable when a shell holds much more or less than its gas fills at any pressure that it can have."""
    time = np.arange(play.frames) / play.fps
    open_air = np.array([gas.amount_at(t) for t in time])
    filled = volumes(play.flexes[name], body.triangles) / open_air
    if filled.min() < 1 - OFF_LAW or filled.max() > 1 + OFF_LAW:
        raise Unstable("the gas law is broken")
