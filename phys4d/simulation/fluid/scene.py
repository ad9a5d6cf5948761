"""A scene of one liquid that flows among props, and vessels or paddles on prescribed paths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from phys4d.simulation.assembly import Part, assemble
from phys4d.simulation.fluid.liquids import Liquid
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.particles.beads import beads
from phys4d.simulation.particles.filling import Filling, Volume, fill
from phys4d.simulation.particles.movers import Mover
from phys4d.simulation.particles.mpm import Mpm
from phys4d.simulation.particles.obstacles import of_prop, of_room
from phys4d.simulation.scene import FIRST_BODY, Scene, Unusable
from phys4d.simulation.screening import cut_off, refuse_unseen

PARTICLES = 3500
SHADE = 0.09  # how much brighter or darker than the liquid a particle is at most


@dataclass(frozen=True)
class Flow:
    """What happened. positions: float64 [T, N, 3] metres. part: int [N], the volume each started in."""

    positions: np.ndarray
    part: np.ndarray
    spacing: float
    fps: float


@dataclass(frozen=True, kw_only=True)
class FluidScene(Scene):
    """A liquid that starts in some volumes; instance FIRST_BODY, then the movers.

    seed: of the places of its particles. caption: what happens, with every first velocity. happened: why the event does
    not show, or None. friction: Coulomb's, against everything; 0 for a liquid that does not stick.
    """

    liquid: Liquid
    volumes: tuple[Volume, ...]
    seed: int
    caption: str
    happened: Callable[[Flow], str | None]
    movers: tuple[Mover, ...] = ()
    friction: float = 0.0
    physics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def category(self) -> str:
        return "fluid"

    def sentence(self) -> str:
        """The caption without what the camera does."""
        return self.caption

    def badly_framed(self) -> bool:
        """The first frame cuts off some of the liquid, or a mover."""
        outlines = [volume.outline() for volume in self.volumes] + [mover.outline() for mover in self.movers]
        return any(cut_off(self, points) for points in outlines)

    def perform(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.perform`."""
        flow = self.flow(frames, fps)
        reason = self.happened(flow)
        if reason is not None:
            raise Unusable(reason)
        colour = np.array(self.liquid.rgb) * self._shades(flow.positions.shape[1])
        parts = [
            beads(
                flow.positions,
                flow.spacing,
                colour,
                FIRST_BODY,
                Texture.WATER,
                eye=np.array(self.view.eye),
                detail=detail,
            )
        ]
        parts += [self._part(number, frames, fps, detail) for number in range(len(self.movers))]
        meshes = assemble(self, parts, frames, detail)
        refuse_unseen(self, meshes, [FIRST_BODY], fps)
        return meshes

    def flow(self, frames: int, fps: float) -> Flow:
        """The liquid's particles, sampled at `fps` from t = 0. Raises Unstable when the simulator failed."""
        filling = self.filling()
        obstacles = [mover.obstacle() for mover in self.movers] + [
            of_prop(replace(prop, friction=self.friction)) for prop in self.props
        ]
        obstacles += of_room(self.room.depth, self.friction)
        velocity = np.array([volume.velocity for volume in self.volumes])[filling.part] @ self.view.level_axes()
        mpm = Mpm(
            filling,
            obstacles,
            density=self.liquid.density,
            velocity=velocity,
            viscosity=self.liquid.viscosity,
        )
        positions = [mpm.positions]
        for _ in range(frames - 1):
            mpm.advance(1 / fps)
            positions.append(mpm.positions)
        return Flow(np.stack(positions), filling.part, filling.spacing, fps)

    def filling(self) -> Filling:
        """The particles at t = 0."""
        return fill(self.volumes, PARTICLES, np.random.default_rng(self.seed))

    def objects(self) -> list[dict[str, Any]]:
        """The liquid, then the movers."""
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
            *(mover.about(FIRST_BODY + 1 + number) for number, mover in enumerate(self.movers)),
        ]

    def parameters(self) -> dict[str, Any]:
        """Of the scene as a whole; SI units."""
        return super().parameters() | {"method": "implicit MPM (Newton 1.8.0)"} | dict(self.physics)

    def _shades(self, count: int) -> np.ndarray:
        """Brightness factor [N, 1] of each particle."""
        return 1 + np.random.default_rng(self.seed + 1).uniform(-SHADE, SHADE, (count, 1))

    def _part(self, number: int, frames: int, fps: float, detail: int) -> Part:
        return self.movers[number].part(FIRST_BODY + 1 + number, frames, fps, detail)
