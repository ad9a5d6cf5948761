"""Flexible bodies (flexes) of a MuJoCo model: points on slide joints, joined by triangles or tetrahedra."""

from dataclasses import dataclass
from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, text

RADIUS = 0.004  # metres: contact radius around a flex's triangles


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """Saint Venant-Kirchhoff material of a flex, as MuJoCo defines it.

    young: Young's modulus, Pa.
    poisson: Poisson's ratio.
    damping: seconds; Rayleigh damping is stiffness times this.
    thickness: metres, of a shell; stretching stiffness is proportional to it, bending stiffness to its third power.
    yields: strain above which the deformation is plastic; 0 for never.
    """

    young: float
    poisson: float
    damping: float
    thickness: float = 0.0
    yields: float = 0.0

    @property
    def bending(self) -> float:
        """Bending rigidity of the shell, N m."""
        return self.young * self.thickness**3 / (12 * (1 - self.poisson**2))


def add_flex(
    mjcf: Mjcf,
    name: str,
    points: np.ndarray,
    elements: np.ndarray,
    mass: np.ndarray,
    elastic: Elastic,
    *,
    friction: float,
    pinned: np.ndarray | None = None,
    radius: float = RADIUS,
    selfcollide: bool = False,
    solref: tuple[float, float] = (0.01, 1.0),
) -> None:
    """Adds a flex with one body and three slide joints for each of its points.

    Bodies are named `name`0, `name`1, ...; joints `name`x0, `name`y0, `name`z0, ... along the world's axes.

    mjcf: model to extend.
    points: float [N, 3], world metres.
    elements: int [E, 3] triangles or [E, 4] tetrahedra.
    mass: [N], kg.
    elastic: material.
    friction: Coulomb coefficient.
    pinned: indices of points that never move; they have no body.
    radius: contact radius, metres.
    selfcollide: its own parts can touch.
    solref: MuJoCo's contact parameter: time constant in seconds and damping ratio.
    """
    fixed = set() if pinned is None else {int(i) for i in pinned}
    for i, point in enumerate(points):
        if i in fixed:
            continue
        body = Xml.SubElement(mjcf.world, "body", name=f"{name}{i}", pos=text(*point))
        Xml.SubElement(body, "inertial", pos="0 0 0", mass=text(mass[i]), diaginertia="1e-6 1e-6 1e-6")
        for axis, direction in (("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1")):
            Xml.SubElement(body, "joint", name=f"{name}{axis}{i}", type="slide", axis=direction)
    flex = Xml.SubElement(
        mjcf.section("deformable"),
        "flex",
        name=name,
        dim=str(elements.shape[1] - 1),
        radius=text(radius),
        body=" ".join("world" if i in fixed else f"{name}{i}" for i in range(len(points))),
        # Coordinates in the body's frame: a body is at its point, the world is not.
        vertex=" ".join(text(*(point if i in fixed else np.zeros(3))) for i, point in enumerate(points)),
        element=" ".join(str(int(i)) for i in elements.ravel()),
    )
    Xml.SubElement(
        flex,
        "contact",
        selfcollide="auto" if selfcollide else "none",
        condim="3",
        # Priority: otherwise MuJoCo averages the contact parameters of both bodies.
        priority="2",
        friction=text(friction, 0.005, 0.0001),
        solref=text(*solref),
        solimp="0.95 0.99 0.001",
    )
    material = {"young": text(elastic.young), "poisson": text(elastic.poisson), "damping": text(elastic.damping)}
    if elements.shape[1] == 3:
        material |= {"thickness": text(elastic.thickness), "elastic2d": "both"}
    if elastic.yields:
        material["yield"] = text(elastic.yields)
    Xml.SubElement(flex, "elasticity", material)


def areas(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area [F] of each triangle, m2."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def volumes(points: np.ndarray, tetrahedra: np.ndarray) -> np.ndarray:
    """Volume [E] of each tetrahedron, m3, positive where its corners are right-handed."""
    a, b, c, d = (points[..., tetrahedra[:, k], :] for k in range(4))
    return (np.cross(b - a, c - a) * (d - a)).sum(axis=-1) / 6


def lump_to_vertices(share: np.ndarray, elements: np.ndarray, count: int) -> np.ndarray:
    """Distributes a quantity of each element [E] to its corners in equal parts and sums it at each of `count` points.
    """
    corners = elements.shape[1]
    return np.bincount(elements.ravel(), np.repeat(share / corners, corners), minlength=count)
