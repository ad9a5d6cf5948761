"""Captions that state what the first frame cannot tell: every initial velocity, in words and numbers.

    a red rubber ball from rest falls onto a blue wood box at rest
    a green steel ball rolling left 1.8 m/s and away 0.4 m/s hits a pink clay cylinder at rest

The first frame shows position, size and colour; the material names density, restitution and friction.
Directions are the camera's: right/left, away/toward (level), up/down. What rolls turns without slipping; all
else does not turn at first.
"""

import re

from phys4d.simulation.scene import Body, Scene

DIRECTIONS = (("right", "left"), ("away", "toward"), ("up", "down"))
VELOCITY = re.compile(r"\b(right|left|away|toward|up|down) (\d+\.\d) m/s")


def caption(scene: Scene) -> str:
    """One English sentence for a scene with one or two bodies."""
    flying = motion(scene.bodies[0], flying=scene.family == "fall")
    first = f"{article(scene.bodies[0].name)} {flying} {scene.event}"
    if len(scene.bodies) == 1:
        return first
    return f"{first} {article(scene.bodies[1].name)} {motion(scene.bodies[1], flying=False)}"


def article(name: str) -> str:
    """The name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def motion(body: Body, *, flying: bool) -> str:
    """The state of a body at t = 0, such as "rolling right 1.2 m/s"."""
    if body.resting:
        return "from rest" if flying else "at rest"
    verb = "rolling" if body.rolling else "flying" if flying else "sliding"
    parts = []
    for speed, (positive, negative) in zip(body.velocity, DIRECTIONS, strict=True):
        if speed:
            parts.append(f"{positive if speed > 0 else negative} {abs(speed):.1f} m/s")
    return f"{verb} {' and '.join(parts)}"


def stated_velocities(text: str, names: list[str]) -> list[tuple[float, float, float]]:
    """Reads a caption back: velocity (right, away, up) in m/s of each named body.

    Raises ValueError when one is not named.
    """
    velocities = []
    starts = [text.find(name) for name in names]
    if min(starts) < 0:
        raise ValueError(f"caption {text!r} does not name {names[starts.index(min(starts))]!r}")
    for start in starts:
        end = min((s for s in starts if s > start), default=len(text))
        velocity = [0.0, 0.0, 0.0]
        for word, number in VELOCITY.findall(text[start:end]):
            axis = next(i for i, pair in enumerate(DIRECTIONS) if word in pair)
            velocity[axis] = float(number) * (1 if word == DIRECTIONS[axis][0] else -1)
        velocities.append((velocity[0], velocity[1], velocity[2]))
    return velocities
