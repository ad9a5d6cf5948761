"""An inclined plank with a supporting block and side rails."""

from dataclasses import dataclass

import numpy as np

from phys4d.simulation.body import Colour, Prop
from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.scenery import poses

THICKNESS = 0.07  # metres: more than a particle moves in one step
RAIL = 0.05
FRICTION = 0.3


@dataclass(frozen=True)
class Incline:
    """An inclined plank.

    low: [3], world metres, middle of the edge where the upper side meets the floor.
    downhill: [3], level unit vector.
    slope: radians.
    length, half_width: metres.
    """

    low: np.ndarray
    downhill: np.ndarray
    slope: float
    length: float
    half_width: float

    @property
    def uphill(self) -> np.ndarray:
        """Unit vector [3] along the plank, uphill."""
        return -np.cos(self.slope) * self.downhill + np.array([0, 0, np.sin(self.slope)])

    @property
    def normal(self) -> np.ndarray:
        """Unit vector [3] normal to the upper side."""
        return np.sin(self.slope) * self.downhill + np.array([0, 0, np.cos(self.slope)])

    @property
    def pose(self) -> tuple[float, float, float, float]:
        """Quaternion of the plank: x is downhill, y across, z normal to the upper side."""
        return quaternion_tuple(poses.heading_pitch(self.downhill, self.slope))

    def above(self, run: float, height: float, across: float = 0.0) -> tuple[float, float, float]:
        """World point [3] in metres above the plank.

        run: metres uphill of the low edge.
        height: metres above the upper side.
        across: metres to the side.
        """
        side = np.cross((0.0, 0.0, 1.0), self.downhill)
        return vector_tuple(self.low + run * self.uphill + height * self.normal + across * side)

    def plank(self, name: str, rgb: Colour, texture: Texture) -> Prop:
        """The plank as a prop."""
        size = (self.length / 2, self.half_width, THICKNESS / 2)
        place = self.above(self.length / 2, -THICKNESS / 2)
        return Prop(name, "box", rgb, texture, size, FRICTION, place, self.pose)

    def rails(self, height: float, rgb: Colour, texture: Texture) -> list[Prop]:
        """Two rails along the plank; height in metres above its upper side."""
        size = (self.length / 2, RAIL / 2, (height + THICKNESS) / 2)
        return [
            Prop(
                "rail", "box", rgb, texture, size, FRICTION,
                self.above(self.length / 2, (height - THICKNESS) / 2, sign * (self.half_width + RAIL / 2)), self.pose,
            )
            for sign in (-1, 1)
        ]  # fmt: skip

    def support(self, rgb: Colour, texture: Texture) -> Prop:
        """The block under the high end."""
        half = 0.06
        behind = self.length * np.cos(self.slope) - 2.5 * half
        top = (behind - half) * np.tan(self.slope) - THICKNESS / np.cos(self.slope)
        foot = self.low - behind * self.downhill + np.array([0, 0, top / 2])
        yaw = poses.yaw_tilt(np.arctan2(self.downhill[1], self.downhill[0]))
        size = (half, 0.7 * self.half_width, float(top / 2))
        return Prop("block", "box", rgb, texture, size, FRICTION, vector_tuple(foot), quaternion_tuple(yaw))


def vector_tuple(values: np.ndarray) -> tuple[float, float, float]:
    """A vector [3] as a tuple of floats."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def quaternion_tuple(values: np.ndarray) -> tuple[float, float, float, float]:
    """A quaternion [4] as a tuple of floats."""
    w, x, y, z = (float(value) for value in values)
    return w, x, y, z
