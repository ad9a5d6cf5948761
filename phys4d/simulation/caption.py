"""Captions that state every initial velocity, which the first frame does not show, in words and numbers.

    a red rubber ball from rest falls onto a blue wood box at rest
    a green steel ball rolling left 1.8 m/s and away 0.4 m/s hits a pink clay cylinder at rest
    a red clay box spinning clockwise 2.1 turns/s turns on the floor; the camera orbits right at 15 degrees/s

The first frame shows position, size and colour; the material implies density, restitution and friction. Directions are
relative to the camera in the first frame: right/left, away/toward (level), up/down; clockwise is seen from above. A
body that "rolls" turns without slipping; a body that neither rolls nor spins starts without rotation. Bodies of a stack
are named from the floor up, bodies of a row in the order in which they fall.
"""

import re
from collections.abc import Iterable, Sequence

from phys4d.simulation.body import Body, Thing
from phys4d.simulation.scene import Scene

DIRECTIONS = (("right", "left"), ("away", "toward"), ("up", "down"))
VELOCITY = re.compile(r"\b(right|left|away|toward|up|down) (\d+\.\d) m/s")
TURNING = re.compile(r"\b(clockwise|counterclockwise) (\d+\.\d) turns/s")
TOPSPIN = re.compile(r"\b(topspin|backspin) (\d+\.\d) turns/s")
CAMERA = "; the camera "
WORDS = 55  # of a caption without the camera's motion, which takes up to 9, for text encoders that take 64


def words(text: str) -> int:
    """Number of words and numbers of a text, "m/s" being two."""
    return len(re.findall(r"\d[\d.]*|[a-z]+", text))


def caption(scene: Scene) -> str:
    """One English sentence about the event, followed by later events, what stands around, and the camera's motion."""
    path = scene.view.path
    still = scene.sentence() + later_words(scene.later) + clutter_words(scene.clutter)
    return still + ("" if path is None else CAMERA + path.words())


def later_words(bodies: Sequence[Body]) -> str:
    """The later events in words, such as "; a pink clay ball on a holder is let go after 1.9 s, a red wood box after
    4.1 s"; empty if there are none.
    """
    let_go = ("on a holder is let go ", *("" for _ in bodies[1:]))
    parts = [
        f"{article(body.name)} {how}after {body.held_until:.1f} s" for body, how in zip(bodies, let_go, strict=False)
    ]
    return "; " + ", ".join(parts) if parts else ""


def clutter_words(things: Sequence[Thing]) -> str:
    """What stands around in words, such as "; a red wood stool stands on the left, a blue steel lamp on the right";
    empty if nothing does.
    """
    verbs = ("stands ", *("" for _ in things[1:]))
    parts = [f"{article(thing.name)} {verb}{thing.side}" for thing, verb in zip(things, verbs, strict=False)]
    return "; " + ", ".join(parts) if parts else ""


def article(name: str) -> str:
    """The name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def motion(body: Body, *, flying: bool) -> str:
    """The state of a body at t = 0 in words, such as "rolling right 1.2 m/s with backspin 3.0 turns/s".

    flying: the body is not on the floor at t = 0.
    """
    if body.resting:
        return "from rest" if flying else "at rest"
    words = []
    if any(body.velocity):
        verb = "swinging" if body.rod else "rolling" if body.rolling else "flying" if flying else "sliding"
        words.append(f"{verb} {_velocity_words(body.velocity)}")
    if body.topspin:
        words.append(f"with {'topspin' if body.topspin > 0 else 'backspin'} {abs(body.topspin):.1f} turns/s")
    if body.turning:
        sense = "counterclockwise" if body.turning > 0 else "clockwise"
        words.append(f"spinning {sense} {abs(body.turning):.1f} turns/s")
    return " ".join(words)


def flight(velocity: Iterable[float]) -> str:
    """The state at t = 0 of something in the air in words, such as "flying right 1.2 m/s and up 0.4 m/s".

    velocity: m/s right, away and up, in tenths.
    """
    words = _velocity_words(velocity)
    return f"flying {words}" if words else "from rest"


def _velocity_words(velocity: Iterable[float]) -> str:
    parts = [
        f"{positive if speed > 0 else negative} {abs(speed):.1f} m/s"
        for speed, (positive, negative) in zip(velocity, DIRECTIONS, strict=True) if speed
    ]  # fmt: skip
    return " and ".join(parts)


def stated_velocities(text: str, names: list[str]) -> list[tuple[float, float, float]]:
    """Parses a caption: the initial velocity (right, away, up) in m/s of each named body.

    Raises ValueError if the caption does not contain one of the names.
    """
    velocities = []
    for part in _parts(text, names):
        velocity = [0.0, 0.0, 0.0]
        for word, number in VELOCITY.findall(part):
            axis = next(i for i, pair in enumerate(DIRECTIONS) if word in pair)
            velocity[axis] = float(number) * (1 if word == DIRECTIONS[axis][0] else -1)
        velocities.append((velocity[0], velocity[1], velocity[2]))
    return velocities


def stated_spins(text: str, names: list[str]) -> list[tuple[float, float]]:
    """Parses a caption: turning and topspin in turns/s of each named body, as defined in `Body`.

    Raises ValueError if the caption does not contain one of the names.
    """
    return [
        (_signed(TURNING.search(part), "counterclockwise"), _signed(TOPSPIN.search(part), "topspin"))
        for part in _parts(text, names)
    ]


def _signed(found: re.Match[str] | None, positive: str) -> float:
    if found is None:
        return 0.0
    return float(found[2]) * (1 if found[1] == positive else -1)


def _parts(text: str, names: list[str]) -> list[str]:
    """The part of a caption that describes each named body: from its name to the next name."""
    bodies = text.partition(CAMERA)[0]
    starts = [bodies.find(name) for name in names]
    if min(starts) < 0:
        raise ValueError(f"caption {text!r} does not name {names[starts.index(min(starts))]!r}")
    return [bodies[start : min((s for s in starts if s > start), default=len(bodies))] for start in starts]
