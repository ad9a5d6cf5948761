"""Rigid bodies of simple shapes with material, pose and initial velocity, static props, and things made of props."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.assets import AssetMesh
from phys4d.simulation.mesh_sequence import Texture, rotation
from phys4d.simulation.scenery.materials import MATERIALS

Shape = Literal["ball", "box", "cylinder", "capsule", "mesh"]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Rod:
    """A rigid massless rod from a body's centre along the body's z axis to a pivot; body and rod swing about the pivot.

    rgb: colour in 0..1.
    length: metres, from the centre of the body to the pivot.
    radius: metres.
    axis: unit vector [3], world direction of the hinge.
    """

    length: float
    radius: float
    axis: tuple[float, float, float]
    rgb: Colour


@dataclass(frozen=True)
class Prop:
    """A static object that bodies can touch.

    name: in the clip's json.
    shape: "ball", "box", "cylinder" or "capsule", or "mesh" of an asset.
    rgb, texture: look.
    size: metres, as for `shapes.mesh`; of an asset, its `AssetMesh.size`.
    friction: Coulomb coefficient.
    position: [3], world metres.
    quaternion: [4], (w, x, y, z).
    asset: the mesh of the user, if the shape is "mesh".
    """

    name: str
    shape: Shape
    rgb: Colour
    texture: Texture
    size: tuple[float, ...]
    friction: float
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    asset: AssetMesh | None = None

    def mesh(self, detail: int) -> shapes.Mesh:
        """Vertices and faces in its own frame, as of `shapes.mesh`."""
        return _mesh(self.shape, self.size, self.asset, detail)


@dataclass(frozen=True)
class Thing:
    """A thing of every day that stands in the scene, see `scenery.clutter`.

    name: such as "red wood stool".
    side: "on the left", "in the middle" or "on the right", as the first frame shows it.
    props: number of the scene's props that are its parts.
    """

    name: str
    side: str
    props: int


@dataclass(frozen=True)
class Body:
    """A rigid body, free or on a rod.

    shape: "ball", "box", "cylinder" or "capsule", or "mesh" of an asset.
    material: name in `materials.MATERIALS`.
    colour, rgb: name of the hue, and the colour in 0..1.
    size: metres, as for `shapes.mesh`; of an asset, its `AssetMesh.size`.
    density: kg/m3.
    friction: Coulomb coefficient.
    restitution: coefficient against a rigid floor.
    position: [3], world metres.
    quaternion: [4], (w, x, y, z).
    velocity: [3], m/s along the camera's level axes (right, away, up), rounded to tenths so that the caption states it
        exactly.
    rolling: the body starts with the rotation of rolling without slipping on the floor.
    turning: initial turns per second about the vertical, counterclockwise seen from above, rounded to tenths.
    topspin: initial turns per second about the level axis perpendicular to the velocity, in the sense of rolling;
        backspin is negative; rounded to tenths.
    rod: the rod that holds the body, or None; the velocity of a body on a rod is tangential to its circle.
    held_until: seconds until which a holder keeps the body at rest, see `later`.
    asset: the mesh of the user, closed, if the shape is "mesh".
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
    held_until: float = 0.0
    asset: AssetMesh | None = None

    @property
    def name(self) -> str:
        return f"{self.colour} {self.material} {self.shape if self.asset is None else self.asset.name}"

    def mesh(self, detail: int) -> shapes.Mesh:
        """Vertices and faces in its own frame, as of `shapes.mesh`."""
        return _mesh(self.shape, self.size, self.asset, detail)

    @property
    def mass(self) -> float:
        if self.asset is not None:
            assert self.asset.volume is not None
            return self.density * self.asset.volume
        return self.density * shapes.volume(self.shape, self.size)

    @property
    def rolling_friction(self) -> float:
        """Lever arm in metres of the resistance to rolling on a floor, from its material."""
        return MATERIALS[self.material].rolling_friction

    @property
    def resting(self) -> bool:
        return not any(self.velocity) and not self.turning

    @property
    def pivot(self) -> np.ndarray:
        """World position [3] in metres of the far end of the rod."""
        assert self.rod is not None
        return np.array(self.position) + self.rod.length * rotation(np.array(self.quaternion))[:, 2]


def _mesh(shape: Shape, size: tuple[float, ...], asset: AssetMesh | None, detail: int) -> shapes.Mesh:
    return shapes.mesh(shape, size, detail) if asset is None else (asset.vertices, asset.faces)
