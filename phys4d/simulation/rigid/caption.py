"""Sentences about rigid bodies: the bodies in their order, each with its initial velocity."""

from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.rigid.bodies import RigidBodies


def sentence(scene: RigidBodies) -> str:
    """The caption of a scene without the camera's motion."""
    first, others = scene.bodies[0], scene.bodies[1:]
    match scene.event:
        case "topples":
            return f"a stack of {_listed(scene.bodies)} at rest topples"
        case "falls over":
            return f"a row of {_listed(scene.bodies)} at rest, the first one leaning, falls over"
        case "knocks over":
            several = "a row" if scene.family == "dominoes" else "a stack"
            flying = first.velocity[2] != 0 or not first.rolling
            return f"{_moving(first, flying=flying)} knocks over {several} of {_listed(others)} at rest"
        case "rolls down" | "slides down":
            end = f" into {_moving(others[0], flying=False)}" if others else ""
            return f"{_moving(first, flying=True)} {scene.event} a ramp{end}"
        case "swings into":
            does = "swings on a rod into" if first.resting else "on a rod hits"
            return f"{_moving(first, flying=True)} {does} {_moving(others[0], flying=False)}"
        case "turns" | "comes back" | "speeds up":
            return f"{_moving(first, flying=False)} {scene.event} on the floor"
    subject = f"{_moving(first, flying=scene.family == 'fall')} {scene.event}"
    return f"{subject} {_moving(others[0], flying=False)}" if others else subject


def _moving(body: Body, *, flying: bool) -> str:
    return f"{article(body.name)} {motion(body, flying=flying)}"


def _listed(bodies: tuple[Body, ...]) -> str:
    names = [article(bodies[0].name), *(body.name for body in bodies[1:])]
    return f"{', '.join(names[:-1])} and {names[-1]}"
