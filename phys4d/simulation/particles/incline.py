"""An inclined plank on which things flow, what holds it up, and rails along it."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.stage import staging

THICKNESS = 0.07  # metres: more than a particle goes in one step
RAIL = 0.05
FRICTION = 0.3


@dataclass(frozen=True)
class Incline:
    """A plank whose upper side meets the floor at `low` [3]; downhill: level unit vector [3]; slope in radians."""

    low: np.ndarray
    downhill: np.ndarray
    slope: float
    length: float
    half_width: float

    @property
    def uphill(self) -> np.ndarray:
        """Unit vector [3] along the plank."""
        return -np.cos(self.slope) * self.downhill + np.array([0, 0, np.sin(self.slope)])

    @property
    def normal(self) -> np.ndarray:
        """Unit vector [3] off its upper side."""
        return np.sin(self.slope) * self.downhill + np.array([0, 0, np.cos(self.slope)])

    @property
    def pose(self) -> tuple[float, float, float, float]:
        """Quaternion of the plank: x runs downhill, y across, z off its upper side."""
        return four(staging.pitched(self.downhill, self.slope))

    def above(self, run: float, height: float, across: float = 0.0) -> tuple[float, float, float]:
        """World point `run` metres uphill of the foot, `height` off the plank and `across` to its side."""
        side = np.cross((0.0, 0.0, 1.0), self.downhill)
        return three(self.low + run * self.uphill + height * self.normal + across * side)

    def plank(self, name: str, rgb: Colour, texture: Texture) -> Prop:
        """The plank itself."""
        size = (self.length / 2, self.half_width, THICKNESS / 2)
        place = self.above(self.length / 2, -THICKNESS / 2)
        return Prop(name, "box", rgb, texture, size, FRICTION, place, self.pose)

    def rails(self, height: float, rgb: Colour, texture: Texture) -> list[Prop]:
        """Two rails along it; height in metres above the plank."""
        size = (self.length / 2, RAIL / 2, (height + THICKNESS) / 2)
        return [
            Prop(
                "rail", "box", rgb, texture, size, FRICTION,
                self.above(self.length / 2, (height - THICKNESS) / 2, sign * (self.half_width + RAIL / 2)), self.pose,
            )
            for sign in (-1, 1)
        ]  # fmt: skip

    def support(self, rgb: Colour, texture: Texture) -> Prop:
        """The block under its high end."""
        half = 0.06
        behind = self.length * np.cos(self.slope) - 2.5 * half
        top = (behind - half) * np.tan(self.slope) - THICKNESS / np.cos(self.slope)
        foot = self.low - behind * self.downhill + np.array([0, 0, top / 2])
        yaw = staging.turned(np.arctan2(self.downhill[1], self.downhill[0]))
        size = (half, 0.7 * self.half_width, float(top / 2))
        return Prop("block", "box", rgb, texture, size, FRICTION, three(foot), four(yaw))


def three(values: np.ndarray) -> tuple[float, float, float]:
    """A vector as a tuple."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def four(values: np.ndarray) -> tuple[float, float, float, float]:
    """A quaternion as a tuple."""
    w, x, y, z = (float(value) for value in values)
    return w, x, y, z
