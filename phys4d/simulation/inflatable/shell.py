"""Inflatables: closed elastic shells filled with gas, their materials, and how they are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import mujoco
import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.cloth import air_drag
from phys4d.simulation.cloth.air_drag import AirDrag
from phys4d.simulation.inflatable.gas import ATMOSPHERE, Gas, add_gas, volumes
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.mujoco_scenes import flex_meshes
from phys4d.simulation.mujoco_scenes.flex import Elastic, add_flex, areas, lump_to_vertices
from phys4d.simulation.mujoco_scenes.flex_points import FlexPoints
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout, StepCallback, in_sequence
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import SceneObject
from phys4d.simulation.scene import Room, Unstable, View
from phys4d.simulation.scenery import sampling
from phys4d.simulation.scenery.materials import saturated

STEPS_PER_SECOND = 360
POISSON = 0.4
THICKNESS = 1.5e-3  # metres, sets the bending stiffness; drawn as zero
SPHERE_DRAG = 0.47  # for each cross-section; the weight of the air inside is its own buoyancy
RADIUS = 0.004  # metres, contact radius
# Time constant in s and damping ratio of contacts, and damping of the skin in s. With those of cushions, which carry
# loads, taut balls that turn bounce ever higher.
CONTACT = {"ball": (0.012, 1.0), "cushion": (0.006, 1.0)}
DAMPING = {"ball": 0.0003, "cushion": 0.001}
PENETRATION = 0.02  # metres
GAS_LAW_TOLERANCE = (
    0.1  # share by which a volume may differ from what the law gives at three times the highest gauge pressure
)

ShellShape = Literal["ball", "cushion"]


@dataclass(frozen=True)
class Shell:
    """An inflatable shell of rubber, about 0.3 mm thick: of 0.25 to 0.4 kg/m2, 300 to 800 N/m for a ball.

    shape: "ball" or "cushion".
    colour, rgb: name of the hue, and the colour in 0..1.
    radii: half axes without pressure, metres.
    stretching: stretching stiffness, N/m.
    mass: kg.
    friction: Coulomb coefficient.
    gauge: initial gauge pressure, Pa.
    frequency: subdivision of the icosahedron, see `flex_meshes.geodesic`.
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
        return f"{self.colour} {'air-filled rubber ball' if self.shape == 'ball' else 'air cushion'}"

    @cached_property
    def _mesh(self) -> tuple[np.ndarray, np.ndarray]:
        return flex_meshes.geodesic(self.frequency)

    @property
    def triangles(self) -> np.ndarray:
        return self._mesh[1]

    @property
    def rest(self) -> np.ndarray:
        """Its points [N, 3] in metres around its centre, without tension."""
        unit = self._mesh[0]
        if self.shape == "cushion":
            unit = flex_meshes.pillow(unit)
        return unit * np.array(self.radii)

    @property
    def volume(self) -> float:
        """Volume in m3 without tension."""
        return float(volumes(self.rest, self.triangles))

    @property
    def swelling(self) -> float:
        """Strain at which the tension of a ball of this volume balances the gauge pressure."""
        radius = float(np.cbrt(np.prod(self.radii)))
        return self.gauge * radius * (1 - POISSON) / (2 * self.stretching)

    @property
    def amount(self) -> float:
        """Initial gas, m3 at atmospheric pressure."""
        return (1 + self.gauge / ATMOSPHERE) * self.volume * (1 + self.swelling) ** 3

    @property
    def elastic(self) -> Elastic:
        return Elastic(
            young=self.stretching / THICKNESS, poisson=POISSON, damping=DAMPING[self.shape], thickness=THICKNESS
        )


def sample_shell(
    rng: np.random.Generator,
    colour: str,
    shape: ShellShape,
    radii: tuple[float, float, float],
    *,
    gauge: float,
    stretching: tuple[float, float],
    density: tuple[float, float] = (0.25, 0.4),
    frequency: int = 5,
) -> Shell:
    """Samples an inflatable.

    colour: name of a hue.
    shape: "ball" or "cushion".
    radii: half axes without pressure, metres.
    gauge: initial gauge pressure, Pa.
    stretching: range, N/m.
    density: range of the skin's density, kg/m2.
    frequency: subdivision of the icosahedron.
    """
    unit, triangles = flex_meshes.geodesic(frequency)
    skin = float(areas(unit * np.array(radii), triangles).sum())
    return Shell(
        shape, colour, saturated(colour, rng), (float(radii[0]), float(radii[1]), float(radii[2])),
        rng.uniform(*stretching), skin * rng.uniform(*density), rng.uniform(0.6, 0.8), gauge, frequency,
    )  # fmt: skip


def model(room: Room, props: tuple[Prop, ...] = ()) -> Mjcf:
    """A model for shells, with an integrator that is implicit in the stiffness of shell and gas."""
    return Mjcf(room, props, integrator="discrete", solver="CG", tolerance="1e-6", iterations="60")


def add_shell(
    mjcf: Mjcf, body: Shell, name: str, position: np.ndarray, turn: np.ndarray | None = None, *, touches: bool = False
) -> None:
    """Adds the flex `name` with its gas.

    mjcf: model to extend.
    body: its properties.
    name: of the flex.
    position: [3], world metres.
    turn: rotation matrix [3, 3].
    touches: the shell collides with itself.
    """
    points, triangles = body.rest, body.triangles
    share = areas(points, triangles)
    mass = lump_to_vertices(share / share.sum() * body.mass, triangles, len(points))
    turned = points if turn is None else points @ turn.T
    add_flex(
        mjcf, name, turned + position, triangles, mass, body.elastic,
        friction=body.friction, radius=RADIUS, selfcollide=touches, solref=CONTACT[body.shape],
    )  # fmt: skip
    add_gas(mjcf, name, len(points))


class InitialInflation:
    """Callback that scales the shells to their equilibrium size at the initial pressure.

    shells, gases: by the name of the flex.
    """

    def __init__(self, shells: Mapping[str, Shell], gases: Mapping[str, Gas]) -> None:
        self.shells, self.gases = shells, gases

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, body in self.shells.items():
            points = FlexPoints(model, name)
            place = points.position(data)
            data.qpos[points.coordinate] += (body.swelling * (place - place.mean(axis=0))).ravel()
            self.gases[name](model, data)


def scene_object(body: Shell, name: str) -> SceneObject:
    """The flex `name` as a scene object."""
    about = {
        "shape": body.shape, "material": "rubber skin", "size": [2 * radius for radius in body.radii],
        "mass": body.mass, "stretching_stiffness": body.stretching, "bending_rigidity": body.elastic.bending,
        "friction": body.friction, "gauge_pressure": body.gauge, "air_at_atmospheric_pressure": body.amount,
    }  # fmt: skip
    return SceneObject(
        name=body.name, rgb=body.rgb, texture=Texture.LATEX, flex=name, smooth=1, rest=body.rest, about=about
    )  # fmt: skip


def scene(
    rng: np.random.Generator,
    family: str,
    view: View,
    room: Room,
    mjcf: Mjcf,
    shells: Mapping[str, tuple[Shell, Gas]],
    scene_objects: tuple[SceneObject, ...],
    caption: str,
    rejection_reason: Callable[[Rollout], str | None],
    *,
    props: tuple[Prop, ...] = (),
    start: StepCallback | None = None,
) -> MujocoScene:
    """A scene with gas-filled shells; `shells`: name of the flex -> shell and gas; `start` follows their inflation."""
    gases = {name: gas for name, (_, gas) in shells.items()}
    inflation = InitialInflation({name: body for name, (body, _) in shells.items()}, gases)
    air = [AirDrag(flex=name, coefficient=SPHERE_DRAG * 3 / 4) for name in shells]

    def before_step(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for gas, drag in zip(gases.values(), air, strict=True):
            gas(model, data)
            drag(model, data)

    def rejection_reason_with_gas_law(rollout: Rollout) -> str | None:
        for name, (body, gas) in shells.items():
            check_gas_law(rollout, name, body, gas)
        return rejection_reason(rollout)

    return MujocoScene(
        family=family, category_name="inflatable", room=room, view=view, light=sampling.light(rng), props=props,
        scene_objects=scene_objects, model=mjcf.text(), caption=caption, steps_per_second=STEPS_PER_SECOND,
        rejection_reason=rejection_reason_with_gas_law,
        start=inflation if start is None else in_sequence(inflation, start), before_step=before_step,
        physics={
            "atmospheric_pressure": ATMOSPHERE,
            "gas_law": "isothermal ideal gas",
            "air_density": air_drag.DENSITY,
            "drag_coefficient": SPHERE_DRAG,
            "air_inflow": {name: gas.rate for name, gas in gases.items()},
        },
        penetration=PENETRATION, closed=False,
    )  # fmt: skip


def check_gas_law(rollout: Rollout, name: str, body: Shell, gas: Gas) -> None:
    """Raises Unstable if a shell's volume differs from that of its gas by more than GAS_LAW_TOLERANCE."""
    time = np.arange(rollout.frames) / rollout.fps
    open_air = np.array([gas.amount_at(t) for t in time])
    filled = volumes(rollout.flexes[name], body.triangles) / open_air
    if filled.min() < 1 - GAS_LAW_TOLERANCE or filled.max() > 1 + GAS_LAW_TOLERANCE:
        raise Unstable("the gas law is broken")
