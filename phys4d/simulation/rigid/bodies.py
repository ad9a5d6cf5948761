"""The contents of a rigid-body scene: bodies, free or on rods, and the event of the first body."""

from dataclasses import dataclass
from typing import Literal

from phys4d.simulation.body import Body
from phys4d.simulation.scene import FIRST_BODY, Scene

Event = Literal[
    "falls", "falls onto", "hits", "meets", "rolls down", "slides down", "topples", "falls over", "knocks over",
    "swings into", "turns", "comes back", "speeds up",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RigidBodies(Scene):
    """Rigid bodies and the event that the caption states.

    event: what the first body does, to the other bodies if there are any.
    bodies: in the order of their instances, from FIRST_BODY on.
    """

    event: Event
    bodies: tuple[Body, ...]

    @property
    def category(self) -> str:
        return "rigid"

    @property
    def all_bodies(self) -> tuple[Body, ...]:
        """The bodies of the event, then those of later events; instances FIRST_BODY, FIRST_BODY + 1, ..."""
        return (*self.bodies, *self.later)

    @property
    def rod_instances(self) -> dict[int, int]:
        """Index of a body on a rod -> instance of its rod; rods follow the bodies."""
        hanging = [number for number, body in enumerate(self.bodies) if body.rod is not None]
        return {number: FIRST_BODY + len(self.all_bodies) + i for i, number in enumerate(hanging)}
