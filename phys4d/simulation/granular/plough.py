"""Plough: a ball rolls into a heap of grains at rest."""

import numpy as np

from phys4d.simulation.articulated.joinery import launch
from phys4d.simulation.body import Body
from phys4d.simulation.caption import article, motion
from phys4d.simulation.granular.grains import STEPS_PER_SECOND, fill, grains, granular_model, packed
from phys4d.simulation.granular.heaps import settled, trimmed
from phys4d.simulation.granular.scene import GrainScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.stage import staging
from phys4d.simulation.world.mjcf import add_body
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.thing import of_body

SHOVED = 0.05  # metres that a fifth of the grains move along the ball's way


def plough(random: np.random.Generator) -> Scene:
    """Draws a scene: 220 to 330 grains in a heap, a heavy ball that reaches it after 0.05 to 0.15 s."""
    view = staging.view(random, distance=(1.1, 1.25), height=(0.6, 0.85), target_height=0.15)
    room, light = staging.room(random), staging.light(random)
    names = staging.colours(random, 2)
    kind = grains(random, names[0], random.uniform(0.022, 0.025), ("pebbles", "beans"))
    axes = view.level_axes()
    high, wide = random.uniform(0.23, 0.27), random.uniform(0.23, 0.26)
    cone = packed(kind.radius, np.array([-wide, -wide, 0]), np.array([wide, wide, high]))
    cone = trimmed(cone, random, lambda p: np.hypot(p[:, 0], p[:, 1]) < wide * (1 - p[:, 2] / high) + 0.02)
    side = int(random.choice([-1, 1]))  # from which the ball comes
    centre = axes[1] * random.uniform(0.1, 0.3) - axes[0] * side * random.uniform(0.05, 0.15)
    yaw = random.uniform(0, np.pi)
    turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    ball = _ball(random, names[1], centre, wide, side, axes)
    model = granular_model(room)
    thing = fill(model, random, kind, cone @ turn + centre)
    add_body(model.world, ball, "ball", condim="4")
    return GrainScene(
        family="plough",
        kind="granular",
        room=room,
        view=view,
        light=light,
        things=(of_body(ball, "ball"), thing),
        grains=thing.name,
        model=model.text(),
        caption=f"{article(ball.name)} {motion(ball, flying=False)} rolls into a heap of {kind.name} at rest",
        steps_per_second=STEPS_PER_SECOND,
        start=settled(launch(view, {"ball": ball})),
        happened=lambda play: _shoved(play, np.array(ball.velocity) @ axes),
        penetration=0.02,
    )


def _ball(random: np.random.Generator, name: str, centre: np.ndarray, wide: float, side: int, axes: np.ndarray) -> Body:
    radius = random.uniform(0.1, 0.125)
    velocity = staging.to_tenths(-side * random.uniform(1.8, 2.5), random.uniform(-0.3, 0.3), 0)
    world = velocity @ axes
    speed = np.linalg.norm(world)
    gap = wide + 0.7 * radius + speed * random.uniform(0.02, 0.08)
    position = centre - world / speed * gap + np.array([0, 0, radius])
    return staging.body(
        random,
        "ball",
        name,
        (radius,),
        position,
        velocity=velocity,
        rolling=True,
        materials=("clay", "marble", "rubber"),
    )


def _shoved(play: Play, velocity: np.ndarray) -> str | None:
    """Many grains move along the ball's way."""
    along = velocity / np.linalg.norm(velocity)
    tracks = [track.position for name, track in play.geoms.items() if name.startswith("grain")]
    way = np.array([(track[-1] - track[0]) @ along for track in tracks])
    return None if np.quantile(way, 0.8) > SHOVED else "the heap stays"
