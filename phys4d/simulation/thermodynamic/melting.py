"""A scene of something solid that melts and flows: particles with heat, in Newton's material point method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from phys4d.simulation.assembly import assemble
from phys4d.simulation.body import Prop
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.particles.beads import beads
from phys4d.simulation.particles.filling import Volume, fill
from phys4d.simulation.particles.mpm import Mpm
from phys4d.simulation.particles.obstacles import of_prop, of_room
from phys4d.simulation.scene import FIRST_BODY, Scene, Unusable
from phys4d.simulation.screening import cut_off, refuse_unseen
from phys4d.simulation.thermodynamic.glow import glowing
from phys4d.simulation.thermodynamic.particle_heat import ParticleHeat
from phys4d.simulation.thermodynamic.substances import Substance

PARTICLES = 3000
SHADE = 0.06  # how much brighter or darker a particle is at most
SOLID_VISCOSITY = 400.0  # Pa s, besides the yield stress
FRONT = 5e-2  # m2/s, see `MeltingScene.diffusivity`
NEAR = 1.3  # spacings from a heater within which a particle touches it
MELTED = 0.12  # share that has to melt


@dataclass(frozen=True)
class Heater:
    """A prop that keeps its temperature (kelvin). exchange: 1/s, how fast a particle that touches it takes it on."""

    prop: int
    temperature: float
    exchange: float


@dataclass(frozen=True)
class Melt:
    """What happened: positions float64 [T, N, 3] metres, temperature [T, N] kelvin, molten [T, N] in 0..1."""

    positions: np.ndarray
    temperature: np.ndarray
    molten: np.ndarray
    spacing: float


@dataclass(frozen=True, kw_only=True)
class MeltingScene(Scene):
    """A substance in some volumes, instance FIRST_BODY, and heaters among the props.

    seed: of the places of its particles. hottest: kelvin, of the heaters. happened: why the event does not show,
    or None.
    """

    substance: Substance
    volumes: tuple[Volume, ...]
    seed: int
    caption: str
    hottest: float
    heaters: tuple[Heater, ...] = ()
    happened: Callable[[Melt], str | None] = lambda melt: None
    friction: float = 0.5
    physics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def diffusivity(self) -> float:
        """m2/s as simulated: such that what is solid melts within about a second, which takes minutes to hours."""
        return FRONT * self.substance.to_melt / (self.hottest - self.substance.melting_point)

    @property
    def category(self) -> str:
        return "thermodynamic"

    def sentence(self) -> str:
        """The caption without what the camera does."""
        return self.caption

    def badly_framed(self) -> bool:
        """The first frame cuts off what is going to melt."""
        return any(cut_off(self, volume.outline()) for volume in self.volumes)

    def perform(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.perform`."""
        melt = self.melt(frames, fps)
        reason = _too_little(melt) or self.happened(melt)
        if reason is not None:
            raise Unusable(reason)
        part = beads(
            melt.positions, melt.spacing, self._colours(melt), FIRST_BODY, self.substance.texture,
            eye=np.array(self.view.eye), detail=detail,
        )  # fmt: skip
        meshes = assemble(self, [part], frames, detail)
        refuse_unseen(self, meshes, [FIRST_BODY], fps)
        return meshes

    def melt(self, frames: int, fps: float) -> Melt:
        """What happens, sampled at `fps` from t = 0. Raises Unstable when the simulator failed."""
        filling = fill(self.volumes, PARTICLES, np.random.default_rng(self.seed))
        obstacles = [*map(of_prop, self.props), *of_room(self.room.depth, self.friction)]
        velocity = np.array([volume.velocity for volume in self.volumes])[filling.part] @ self.view.level_axes()
        mpm = Mpm(
            filling, obstacles, density=self.substance.density, velocity=velocity, viscosity=SOLID_VISCOSITY,
            yield_stress=self.substance.stiffness, nearest=0.9,
        )  # fmt: skip
        heat = ParticleHeat(self.substance, filling.points, filling.spacing, self.diffusivity)
        fastest = max((heater.exchange for heater in self.heaters), default=0.0)
        positions, temperature, molten = [mpm.positions], [heat.temperature], [heat.molten]
        for _ in range(frames - 1):
            heat.advance(mpm.places, 1 / fps, self._gain(positions[-1], filling.spacing), fastest)
            mpm.set_material(*self._material(heat.molten))
            mpm.advance(1 / fps)
            positions.append(mpm.positions)
            temperature.append(heat.temperature)
            molten.append(heat.molten)
        return Melt(np.stack(positions), np.stack(temperature), np.stack(molten), filling.spacing)

    def objects(self) -> list[dict[str, Any]]:
        """What melts."""
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
                "initial_temperature": substance.start,
                "melting_point": substance.melting_point,
                "latent_heat": substance.latent,
                "heat_capacity": substance.heat_capacity,
                "viscosity_molten": substance.viscosity,
                "viscosity_solid": SOLID_VISCOSITY,
                "yield_stress_solid": substance.stiffness,
            }
        ]

    def parameters(self) -> dict[str, Any]:
        """Of the scene as a whole; SI units. Conduction is faster than in reality by the factor that is stated."""
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
        """K/s [N] that heaters give particles at these points, for any temperatures [N] of them."""
        touched = [(of_prop(self._prop(heater)).depth(points, 0.0) > -NEAR * spacing) for heater in self.heaters]

        def gain(temperature: np.ndarray) -> np.ndarray:
            total = np.zeros(len(points))
            for near, heater in zip(touched, self.heaters, strict=True):
                total += near * heater.exchange * (heater.temperature - temperature)
            return total

        return gain

    def _material(self, molten: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Viscosity and yield stress [N]: the viscosity falls exponentially, the strength vanishes half-molten."""
        viscosity = SOLID_VISCOSITY ** (1 - molten) * self.substance.viscosity**molten
        return viscosity, self.substance.stiffness * np.clip(1 - 2 * molten, 0, 1) ** 2

    def _colours(self, melt: Melt) -> np.ndarray:
        """RGB float32 [T, N, 3]."""
        shade = 1 + np.random.default_rng(self.seed + 1).uniform(-SHADE, SHADE, (melt.positions.shape[1], 1))
        solid, liquid = np.array(self.substance.solid), np.array(self.substance.liquid)
        own = (solid + melt.molten[..., None] * (liquid - solid)) * shade
        return np.clip(glowing(melt.temperature, own), 0, 1).astype(np.float32)


def _too_little(melt: Melt) -> str | None:
    if np.mean(melt.molten[-1] > 0.5) < MELTED:
        return "too little melts"
    return None


def hot(prop: Prop, temperature: float) -> Prop:
    """The prop in the colour of its temperature."""
    red, green, blue = (float(value) for value in glowing(np.array(temperature), prop.rgb))
    return replace(prop, rgb=(red, green, blue), texture=Texture.GLOW)
