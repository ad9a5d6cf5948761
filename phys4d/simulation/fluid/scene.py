"""A scene of one liquid that flows among props and kinematic bodies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.fluid.liquids import Liquid
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.particles.beads import beads
from phys4d.simulation.particles.initial_particles import InitialParticles, InitialVolume, fill_volumes
from phys4d.simulation.particles.kinematic_bodies import KinematicBody
from phys4d.simulation.particles.mpm import Mpm
from phys4d.simulation.particles.obstacles import obstacle_from_prop, obstacles_from_room
from phys4d.simulation.scene import FIRST_BODY, Scene, Unusable
from phys4d.simulation.screening import check_visible_motion, is_cut_off

PARTICLES = 3500
SHADE = 0.09  # largest relative deviation of a particle's brightness


@dataclass(frozen=True)
class ParticleMotion:
    """Motion of a liquid's particles.

    positions: float64 [T, N, 3], metres.
    volume_index: int [N], index of the initial volume of each particle.
    spacing: metres between particles.
    fps: frames per second.
    """

    positions: np.ndarray
    volume_index: np.ndarray
    spacing: float
    fps: float


@dataclass(frozen=True, kw_only=True)
class FluidScene(Scene):
    """A liquid that starts in some volumes; instance FIRST_BODY, followed by the kinematic bodies.

    liquid: its properties.
    volumes: its initial volumes.
    seed: of the initial positions of its particles.
    caption: the event with every initial velocity.
    rejection_reason: returns why the event is not visible, or None if it is.
    later_event: adds something that happens in the last quarter of a long clip, see `Scene.lasting`.
    kinematic_bodies: vessels and other solids on prescribed paths.
    friction: Coulomb coefficient against all solids; 0 for free slip.
    physics: parameters for the clip's json.
    """

    liquid: Liquid
    volumes: tuple[InitialVolume, ...]
    seed: int
    caption: str
    rejection_reason: Callable[[ParticleMotion], str | None]
    later_event: Callable[["FluidScene", float, np.random.Generator], "FluidScene"]
    kinematic_bodies: tuple[KinematicBody, ...] = ()
    friction: float = 0.0
    physics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def category(self) -> str:
        return "fluid"

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        return self.caption

    def badly_framed(self) -> bool:
        """Whether the first frame cuts off the liquid or a kinematic body."""
        outlines = [volume.outline() for volume in self.volumes] + [
            kinematic_body.outline() for kinematic_body in self.kinematic_bodies
        ]
        return any(is_cut_off(self, points) for points in outlines)

    def lasting(self, seconds: float, rng: np.random.Generator) -> "FluidScene":
        """See `Scene.lasting`."""
        return self.later_event(self, seconds, rng)

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        particle_motion = self.particle_motion(frames, fps)
        reason = self.rejection_reason(particle_motion)
        if reason is not None:
            raise Unusable(reason)
        colour = np.array(self.liquid.rgb) * self._shades(particle_motion.positions.shape[1])
        parts = [
            beads(
                particle_motion.positions,
                particle_motion.spacing,
                colour,
                FIRST_BODY,
                Texture.WATER,
                detail=detail,
            )
        ]
        parts += [self._part(number, frames, fps, detail) for number in range(len(self.kinematic_bodies))]
        meshes = assemble(self, parts, frames, detail)
        check_visible_motion(self, meshes, [FIRST_BODY], fps)
        return meshes

    def particle_motion(self, frames: int, fps: float) -> ParticleMotion:
        """Simulates the particles, sampled at `fps` from t = 0. Raises Unstable if the simulator failed."""
        initial_particles = self.initial_particles()
        obstacles = [kinematic_body.obstacle() for kinematic_body in self.kinematic_bodies] + [
            obstacle_from_prop(replace(prop, friction=self.friction)) for prop in self.props
        ]
        obstacles += obstacles_from_room(self.room, self.friction)
        velocity = (
            np.array([volume.velocity for volume in self.volumes])[initial_particles.volume_index]
            @ self.view.level_axes()
        )
        mpm = Mpm(
            initial_particles,
            obstacles,
            density=self.liquid.density,
            velocity=velocity,
            viscosity=self.liquid.viscosity,
        )
        positions = [mpm.positions]
        for _ in range(frames - 1):
            mpm.advance(1 / fps)
            positions.append(mpm.positions)
        return ParticleMotion(np.stack(positions), initial_particles.volume_index, initial_particles.spacing, fps)

    def initial_particles(self) -> InitialParticles:
        """The particles at t = 0."""
        return fill_volumes(self.volumes, PARTICLES, np.random.default_rng(self.seed))

    def objects(self) -> list[dict[str, Any]]:
        """The liquid, then the kinematic bodies."""
        liquid, volume = self.liquid, sum(volume.cubic_metres for volume in self.volumes)
        return [
            {
                "instance": FIRST_BODY,
                "name": liquid.name,
                "colour": list(liquid.rgb),
                "dynamic": True,
                "density": liquid.density,
                "viscosity": liquid.viscosity,
                "volume": volume,
                "mass": liquid.density * volume,
                "linear_velocity": [
                    (np.array(volume.velocity) @ self.view.level_axes()).tolist() for volume in self.volumes
                ],
            },
            *(
                kinematic_body.about(FIRST_BODY + 1 + number)
                for number, kinematic_body in enumerate(self.kinematic_bodies)
            ),
        ]

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; SI units."""
        return super().parameters() | {"method": "implicit MPM (Newton 1.8.0)"} | dict(self.physics)

    def _shades(self, count: int) -> np.ndarray:
        """Brightness factor [N, 1] of each particle."""
        return 1 + np.random.default_rng(self.seed + 1).uniform(-SHADE, SHADE, (count, 1))

    def _part(self, number: int, frames: int, fps: float, detail: int) -> InstanceMesh:
        return self.kinematic_bodies[number].instance_mesh(FIRST_BODY + 1 + number, frames, fps, detail)
