"""Figure: a jointed manikin at rest collapses, or a rolling ball knocks its legs away."""

from dataclasses import dataclass
from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.joinery import CONTACT_TIME, Make, firm_contacts, launch, make, part, solid
from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import Mjcf, add_body, text
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import of_body

FALLEN = 0.55  # share of its height below which the head ends
HELD = 0.02  # N m of dry friction in a joint of a figure 0.7 m high
DAMPING = 0.01  # N m s


@dataclass(frozen=True)
class Limb:
    """A part of the figure, hung on another one; lengths in shares of the figure's height.

    start, end: where it begins and ends, from the joint with its parent. joint: from the parent's own joint. axes:
    its hinges, each with its limits in degrees. bend: degrees about each hinge at first.
    """

    name: str
    parent: str
    joint: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float
    hinges: tuple[tuple[tuple[float, float, float], float, float], ...]
