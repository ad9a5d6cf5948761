"""What a scene of rigid bodies holds: bodies, free or on rods, and what the first one does."""

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
    """event: what the first body does, to the others if there are any."""

    event: Event
    bodies: tuple[Body, ...]

    @property
    def category(self) -> str:
        return "rigid"

    @property
    def rod_instances(self) -> dict[int, int]:
        """Instance of each rod, by the number of the body that hangs on it: after the bodies."""
        hanging = [number for number, body in enumerate(self.bodies) if body.rod is not None]
        return {number: FIRST_BODY + len(self.bodies) + i for i, number in enumerate(hanging)}

    @property
    def prop_instances(self) -> range:
        """Instances of the props: after the rods."""
        first = FIRST_BODY + len(self.bodies) + len(self.rod_instances)
        return range(first, first + len(self.props))
