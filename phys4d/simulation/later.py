"""Later events: bodies on holders that are let go while the clip runs, so that a long clip does not end in stillness.

A clip of at least SHORT seconds has one later event or more, the last of them in its last quarter. A holder is a thin
rod from above, which the first frame shows; the caption states each body and when it is let go.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from phys4d.simulation.body import Body, Prop, Shape
from phys4d.simulation.mesh_sequence import Texture, Track
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import View
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import HUES, muted
from phys4d.simulation.screening import NEAREST
from phys4d.simulation.shapes import bounding_radius, half_height

LOOK_AHEAD = 20.0  # frames per second at which the event is followed to find places that it leaves free
SHORT = 2.0  # seconds, a shorter clip has no later event
EVERY = 2.5  # seconds between later events, about
BEFORE_END = (0.13, 0.2)  # range of the time that remains after the last release, over the clip's length
RADIUS = (0.065, 0.1)  # range in metres of the bodies' size
HOLDER_RADIUS, HOLDER_TOP = 0.008, 2.8  # metres; the top is the ceiling of a `Room`
GAP = 0.002  # metres between a holder and its body
CLEAR, CLEAR_AT_FIRST = 0.05, 0.12  # metres, see `Occupied.clear`
PLACES = 300  # tried for one body
NEAR_TARGET, SPREAD = 0.05, (0.5, 0.35)  # metres: places spread out from the first one to these, right and away
WITHIN = 0.4  # metres from the middle of the room, level: subjects farther away are not followed
HEIGHT = (0.35, 0.85)  # range in metres


def release_times(seconds: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Times of the later events of a clip in seconds, rounded to tenths as a caption states them; none if it is SHORT.

    seconds: length of the clip.
    rng: random generator.
    """
    if seconds < SHORT:
        return ()
    count = max(1, round(seconds / EVERY))
    remains = rng.uniform(*BEFORE_END, size=count) * seconds
    ends = seconds * (np.arange(count) + 1) / count
    return tuple(float(time) for time in np.round(ends - remains, 1))


@dataclass(frozen=True)
class Occupied:
    """Where a scene's things are until the last later event.

    solids: rigid things that do not move, but floor and wall.
    moving: shape, size and pose over time of rigid things that move.
    points: [N, 3], world metres, points of everything that is soft or small.
    clear: metres, least distance of a held body: more if the scene is known in its first frame only.
    """

    solids: Sequence[Solid]
    moving: Sequence[tuple[Shape, tuple[float, ...], Track]]
    points: np.ndarray
    clear: float = CLEAR

    def distance(self, places: np.ndarray) -> float:
        """A lower bound of the least distance in metres of places [M, 3] from everything at any time."""
        least = [np.linalg.norm(self.points - places[:, None], axis=2).min(initial=np.inf)]
        least += [-solid.depth(places).max() for solid in self.solids]
        for shape, size, track in self.moving:
            local = np.einsum("mti,tij->mtj", places[:, None] - track.position, track.rotation())
            least.append(-Solid(shape, size, (0.0, 0.0, 0.0)).depth(local.reshape(-1, 3)).max())
        return float(min(least))


def sample(
    rng: np.random.Generator, time: float, view: View, caption: str, subject: np.ndarray, occupied: Occupied
) -> tuple[Body, Prop] | None:
    """Samples the body of one later event and its holder; None if there is no free place that the camera sees.

    rng: random generator.
    time: seconds until the body is let go.
    view: the camera.
    caption: what happens before; the body has a colour that it does not name, or else a shape
        that it does not name in this colour.
    subject: [3], world metres; the body is above it or as near to that as possible.
    occupied: where everything else is.
    """
    free = [name for name in HUES if name not in re.findall(r"\w+", caption)]
    name = str(rng.choice(free or list(HUES)))
    kinds: list[Shape] = ["ball", "box", "cylinder", "capsule"]
    kind = kinds[rng.choice(4, p=[0.55, 0.2, 0.15, 0.1])]
    if not free:  # all colours are named: one of which the caption has no such shape
        others = [hue for hue in HUES if not re.search(rf"\b{hue} \w+ {kind}\b", caption)]
        if not others:
            return None
        name = str(rng.choice(others))
    size = sampling.size_for_radius(kind, rng.uniform(*RADIUS))
    place = _place(rng, view, subject, bounding_radius(kind, size), occupied)
    if place is None:
        return None
    body = sampling.body(rng, kind, name, size, place, quaternion=poses.yaw_tilt(rng.uniform(0, np.pi)))
    return replace(body, held_until=time), _holder(rng, place, half_height(kind, size))


def solids_of(things: Sequence[Body | Prop]) -> list[Solid]:
    """Bodies and props as solids."""
    return [Solid.of(thing) for thing in things]


def _holder(rng: np.random.Generator, place: np.ndarray, half: float) -> Prop:
    bottom = float(place[2]) + half + GAP
    middle = (float(place[0]), float(place[1]), (bottom + HOLDER_TOP) / 2)
    size = (HOLDER_RADIUS, (HOLDER_TOP - bottom) / 2)
    return Prop("holder", "cylinder", muted(rng, 0.25, 0.5), Texture.PLAIN, size, 0.5, middle)


def _place(
    rng: np.random.Generator, view: View, subject: np.ndarray, radius: float, occupied: Occupied
) -> np.ndarray | None:
    axes = view.level_axes()
    camera = view.camera(1, 1, 1, 1.0)
    for reach in np.linspace(NEAR_TARGET, 1.0, PLACES):
        off = rng.uniform(-reach, reach, size=2) * SPREAD
        place = np.array([*np.clip(subject[:2], -WITHIN, WITHIN), 0.0]) + off[0] * axes[0] + off[1] * axes[1]
        place[2] = rng.uniform(*HEIGHT)
        pixel, depth = camera.project(0, place[None])
        margin = 1.1 * radius * camera.intrinsics[0, 0, 0] / depth[0]
        seen = (np.abs(pixel[0] - 0.5) + margin < 0.5).all() and depth[0] - radius > NEAREST
        if seen and occupied.distance(place[None]) > radius + occupied.clear:
            above = place + np.linspace(0, HOLDER_TOP - place[2], 30)[:, None] * np.array([0, 0, 1.0])
            if occupied.distance(above) > HOLDER_RADIUS + CLEAR:
                return place
    return None
