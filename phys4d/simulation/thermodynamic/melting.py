"""A scene of a solid that melts and flows: particles with heat, in Newton's material point method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from phys4d.simulation.assembly import assemble
from phys4d.simulation.body import Prop
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.particles.beads import beads
from phys4d.simulation.particles.initial_particles import InitialVolume, fill_volumes
from phys4d.simulation.particles.mpm import Mpm
from phys4d.simulation.particles.obstacles import obstacle_from_prop, obstacles_from_room
from phys4d.simulation.scene import FIRST_BODY, Scene, Unusable
from phys4d.simulation.screening import check_visible_motion, is_cut_off
from phys4d.simulation.thermodynamic.glow import glowing
from phys4d.simulation.thermodynamic.pace import in_words as in_pace
from phys4d.simulation.thermodynamic.particle_heat import ParticleHeat
from phys4d.simulation.thermodynamic.substances import Substance

PARTICLES = 3000
SHADE = 0.06  # largest relative deviation of a particle's brightness
SOLID_VISCOSITY = 400.0  # Pa s of the solid, in addition to its yield stress
FRONT = 5e-2  # m2/s, see `MeltingScene.diffusivity`
MELTS = 2.5  # seconds, the longest clip in which heat flows as fast as in any shorter one
NEAR = 1.3  # distance from a heater, over the spacing, below which a particle is heated
MELTED = 0.12  # share of the particles that must melt


@dataclass(frozen=True)
class Heater:
    """A prop at constant temperature.

    prop: index in the scene's props.
    temperature: kelvin.
    exchange: 1/s, heat transfer rate to particles in contact.
    """

    prop: int
    temperature: float
    exchange: float


@dataclass(frozen=True)
class MeltMotion:
    """Motion of a melting substance.

    positions: float64 [T, N, 3], metres.
    temperature: [T, N], kelvin.
    molten: [T, N], molten share in 0..1.
    spacing: metres between particles.
    """

    positions: np.ndarray
    temperature: np.ndarray
    molten: np.ndarray
    spacing: float


@dataclass(frozen=True, kw_only=True)
class MeltingScene(Scene):
    """A substance in some volumes, instance FIRST_BODY, and heaters among the props.

    substance: its properties.
    volumes: its initial volumes.
    seed: of the initial positions of its particles.
    caption: the event with every initial velocity.
    hottest: kelvin, highest temperature of the heaters.
    heaters: props that heat.
    rejection_reason: returns why the event is not visible, or None if it is.
    friction: Coulomb coefficient of floor and wall.
    pace: by which heat flows more slowly than in a short clip.
    physics: parameters for the clip's json.
    """

    substance: Substance
    volumes: tuple[InitialVolume, ...]
    seed: int
    caption: str
    hottest: float
    heaters: tuple[Heater, ...] = ()
    rejection_reason: Callable[[MeltMotion], str | None] = lambda melt: None
    friction: float = 0.5
    pace: float = 1.0
    physics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def diffusivity(self) -> float:
        """Simulated thermal diffusivity, m2/s, chosen so that the solid melts within about a second instead of minutes
        or hours.
        """
        return FRONT / self.pace * self.substance.heat_to_melt / (self.hottest - self.substance.melting_point)

    @property
    def category(self) -> str:
        return "thermodynamic"

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        return self.caption + in_pace(self.diffusivity / self.substance.diffusivity)

    def badly_framed(self) -> bool:
        """Whether the first frame cuts off the melting substance."""
        return any(is_cut_off(self, volume.outline()) for volume in self.volumes)

    def lasting(self, seconds: float, rng: np.random.Generator) -> "MeltingScene":
        """The scene with heat that flows more slowly in a long clip, so that it melts until the end."""
        pace = max(1.0, seconds / MELTS)
        heaters = tuple(replace(heater, exchange=heater.exchange / pace) for heater in self.heaters)
        return replace(self, heaters=heaters, pace=pace)

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        melt = self.melt(frames, fps)
        reason = _too_little(melt) or self.rejection_reason(melt)
        if reason is not None:
            raise Unusable(reason)
        part = beads(
            melt.positions, melt.spacing, self._colours(melt), FIRST_BODY, self.substance.texture,
            detail=detail,
        )  # fmt: skip
        meshes = assemble(self, [part], frames, detail)
        check_visible_motion(self, meshes, [FIRST_BODY], fps)
        return meshes

    def melt(self, frames: int, fps: float) -> MeltMotion:
        """Simulates the particles, sampled at `fps` from t = 0. Raises Unstable if the simulator failed."""
        initial_particles = fill_volumes(self.volumes, PARTICLES, np.random.default_rng(self.seed))
        obstacles = [*map(obstacle_from_prop, self.props), *obstacles_from_room(self.room, self.friction)]
        velocity = (
            np.array([volume.velocity for volume in self.volumes])[initial_particles.volume_index]
            @ self.view.level_axes()
        )
        mpm = Mpm(
            initial_particles, obstacles, density=self.substance.density, velocity=velocity, viscosity=SOLID_VISCOSITY,
            yield_stress=self.substance.yield_stress, nearest=0.9,
        )  # fmt: skip
        heat = ParticleHeat(self.substance, initial_particles.points, initial_particles.spacing, self.diffusivity)
        fastest = max((heater.exchange for heater in self.heaters), default=0.0)
        positions, temperature, molten = [mpm.positions], [heat.temperature], [heat.molten]
        for _ in range(frames - 1):
            heat.advance(mpm.places, 1 / fps, self._gain(positions[-1], initial_particles.spacing), fastest)
            mpm.set_material(*self._material(heat.molten))
            mpm.advance(1 / fps)
            positions.append(mpm.positions)
            temperature.append(heat.temperature)
            molten.append(heat.molten)
        return MeltMotion(np.stack(positions), np.stack(temperature), np.stack(molten), initial_particles.spacing)

    def objects(self) -> list[dict[str, Any]]:
        """The melting substance."""
        substance, volume = self.substance, sum(volume.cubic_metres for volume in self.volumes)
        return [
            {
                "instance": FIRST_BODY,
                "name": substance.name,
                "colour": list(substance.solid),
                "dynamic": True,
                "density": substance.density,
                "volume": volume,
                "mass": substance.density * volume,
                "initial_temperature": substance.initial_temperature,
                "melting_point": substance.melting_point,
                "latent_heat": substance.latent_heat,
                "heat_capacity": substance.heat_capacity,
                "viscosity_molten": substance.viscosity,
                "viscosity_solid": SOLID_VISCOSITY,
                "yield_stress_solid": substance.yield_stress,
            }
        ]

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; SI units. Conduction is faster than in reality by the stated factor."""
        heaters = [
            {"prop": self._prop(heater).name, "temperature": heater.temperature, "exchange_rate": heater.exchange}
            for heater in self.heaters
        ]
        simulated = {
            "method": "implicit MPM (Newton 1.8.0), explicit conduction between particles",
            "thermal_diffusivity_simulated": self.diffusivity,
            "thermal_diffusivity_real": self.substance.diffusivity,
            "conduction_faster_than_real": self.diffusivity / self.substance.diffusivity,
        }
        return super().parameters() | simulated | {"heaters": heaters} | dict(self.physics)

    def _prop(self, heater: Heater) -> Prop:
        return self.props[heater.prop]

    def _gain(self, points: np.ndarray, spacing: float) -> Callable[[np.ndarray], np.ndarray]:
        """Function of temperatures [N]: heating in K/s [N] by the heaters of particles at these points."""
        touched = [
            (obstacle_from_prop(self._prop(heater)).depth(points, 0.0) > -NEAR * spacing) for heater in self.heaters
        ]

        def gain(temperature: np.ndarray) -> np.ndarray:
            total = np.zeros(len(points))
            for near, heater in zip(touched, self.heaters, strict=True):
                total += near * heater.exchange * (heater.temperature - temperature)
            return total

        return gain

    def _material(self, molten: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Viscosity and yield stress [N]: viscosity falls exponentially, yield stress is zero from half-molten on."""
        viscosity = SOLID_VISCOSITY ** (1 - molten) * self.substance.viscosity**molten
        return viscosity, self.substance.yield_stress * np.clip(1 - 2 * molten, 0, 1) ** 2

    def _colours(self, melt: MeltMotion) -> np.ndarray:
        """RGB float32 [T, N, 3]."""
        shade = 1 + np.random.default_rng(self.seed + 1).uniform(-SHADE, SHADE, (melt.positions.shape[1], 1))
        solid, liquid = np.array(self.substance.solid), np.array(self.substance.liquid)
        own = (solid + melt.molten[..., None] * (liquid - solid)) * shade
        return np.clip(glowing(melt.temperature, own), 0, 1).astype(np.float32)


def _too_little(melt: MeltMotion) -> str | None:
    if np.mean(melt.molten[-1] > 0.5) < MELTED:
        return "too little melts"
    return None


def glowing_prop(prop: Prop, temperature: float) -> Prop:
    """The prop in the colour of its temperature in kelvin."""
    red, green, blue = (float(value) for value in glowing(np.array(temperature), prop.rgb))
    return replace(prop, rgb=(red, green, blue), texture=Texture.GLOW)
