"""Rigid bodies as drawn: simple shapes with a material, a place and a first velocity, and the props they may touch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.mesh_sequence import Texture, rotation

Shape = Literal["ball", "box", "cylinder", "capsule"]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Rod:
    """A stiff rod without mass from a body's centre along its own z axis to a pivot, about which both swing.

    length and radius in metres; axis: world direction of the hinge, unit length.
    """

    length: float
    radius: float
    axis: tuple[float, float, float]
    rgb: Colour


@dataclass(frozen=True)
class Prop:
    """Scenery that never moves and that bodies can touch; size, position and quaternion as for a `Body`."""

    name: str
    shape: Shape
    rgb: Colour
    texture: Texture
    size: tuple[float, ...]
    friction: float
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Body:
    """A rigid body, free or on a rod.

    size: see `shapes.mesh`, metres. density kg/m3. position: world metres; quaternion (w, x, y, z).
    velocity: m/s along the camera's level axes (right, away, up), in tenths, so that a caption is exact.
    rolling: turns as it moves, without slipping on the floor; otherwise it does not turn at the start, unless
    turning (turns per second about the vertical, counterclockwise seen from above) or topspin (turns per second about
    the level axis across its velocity, as if rolling; backspin is negative) say so, in tenths like the velocity.
    rod: what it hangs on; its velocity is then along the circle on which it swings.
    """

    shape: Shape
    material: str
    colour: str
    rgb: Colour
    size: tuple[float, ...]
    density: float
    friction: float
    restitution: float
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rolling: bool = False
    turning: float = 0.0
    topspin: float = 0.0
    rod: Rod | None = None

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material} {self.shape}"

    @property
    def mass(self) -> float:
        return self.density * shapes.volume(self.shape, self.size)

    @property
    def resting(self) -> bool:
        return not any(self.velocity) and not self.turning

    @property
    def pivot(self) -> np.ndarray:
        """World position [3] in metres of the far end of the rod."""
        assert self.rod is not None
        return np.array(self.position) + self.rod.length * rotation(np.array(self.quaternion))[:, 2]
