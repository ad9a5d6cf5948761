"""A scene in MuJoCo: a model, what of it is seen, and how to tell whether the event that the caption says shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phys4d.simulation.assembly import Part, assemble
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import FIRST_BODY, Scene, Unstable, Unusable
from phys4d.simulation.screening import cut_off, refuse_unseen
from phys4d.simulation.world.play import Drive, Play, play, refuse_gain
from phys4d.simulation.world.thing import Surface, Thing, of_flex, of_geoms

COARSE = 1  # detail of the check of the first frame


@dataclass(frozen=True, kw_only=True)
class WorldScene(Scene):
    """Things of any kind, moved by MuJoCo.

    kind: its category. things: instances FIRST_BODY... in their order. model: MJCF text, see `mjcf.Mjcf`. caption: what
    happens, with every first velocity. start, drive and steps_per_second: see `play.play`. happened: why the event does
    not show, or None. physics: parameters for the clip's json. penetration: metres that a contact may be deep. closed:
    whether the energy that MuJoCo accounts for cannot grow.
    """

    kind: str
    things: tuple[Thing, ...]
    model: str
    caption: str
    steps_per_second: int
    happened: Callable[[Play], str | None]
    start: Drive | None = None
    drive: Drive | None = None
    physics: Mapping[str, Any] = field(default_factory=dict)
    penetration: float = 0.02
    closed: bool = True

    @property
    def category(self) -> str:
        return self.kind

    def sentence(self) -> str:
        """The caption without what the camera does."""
        return self.caption

    def badly_framed(self) -> bool:
        """The first frame cuts off something that can move."""
        first = self._play(1, 24.0)
        return any(
            cut_off(self, surface.vertices[0])
            for thing, surface in zip(self.things, self._surfaces(first, COARSE), strict=True)
            if thing.dynamic
        )

    def perform(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.perform`."""
        played = self._play(frames, fps)
        if played.deepest.max() > self.penetration:
            raise Unstable("things pass into each other")
        if self.closed:
            refuse_gain(played.energy)
        reason = self.happened(played)
        if reason is not None:
            raise Unusable(reason)
        parts = [
            Part(
                surface.vertices, surface.faces, surface.rest, instance,
                surface.shade[:, None] * np.array(thing.rgb), thing.texture, surface.track,
            )
            for instance, (thing, surface) in enumerate(
                zip(self.things, self._surfaces(played, detail), strict=True), start=FIRST_BODY
            )
        ]  # fmt: skip
        meshes = assemble(self, parts, frames, detail)
        dynamic = [FIRST_BODY + number for number, thing in enumerate(self.things) if thing.dynamic]
        refuse_unseen(self, meshes, dynamic, fps)
        return meshes

    def surface(self, thing: Thing, played: Play, detail: int) -> Surface:
        """The triangles of a thing over time; a category may draw some of its things in its own way."""
        if thing.flex:
            return of_flex(played.model, thing, played.flexes[thing.flex], detail)
        return of_geoms(played.model, thing, played.geoms, detail)

    def objects(self) -> list[dict[str, Any]]:
        """The things in their order."""
        return [
            {
                "instance": instance,
                "name": thing.name,
                "colour": list(thing.rgb),
                "dynamic": thing.dynamic,
                **thing.about,
            }
            for instance, thing in enumerate(self.things, start=FIRST_BODY)
        ]

    def parameters(self) -> dict[str, Any]:
        """Of the scene as a whole; SI units."""
        return super().parameters() | dict(self.physics)

    def _play(self, frames: int, fps: float) -> Play:
        return play(
            self.model, frames, fps, steps_per_second=self.steps_per_second, start=self.start, drive=self.drive
        )

    def _surfaces(self, played: Play, detail: int) -> list[Surface]:
        return [self.surface(thing, played, detail) for thing in self.things]
