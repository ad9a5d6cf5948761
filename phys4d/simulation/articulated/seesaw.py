"""Seesaw: a ball falls onto the raised end of a plank, which throws up a body that lies on the other end."""

import numpy as np

from phys4d.simulation.articulated.linkage import (
    LYING,
    add_geom,
    add_hinge,
    add_link,
    fixed_object,
    sample_material,
    set_firm_contacts,
)
from phys4d.simulation.body import Body, Shape
from phys4d.simulation.caption import article
from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf, add_body
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.mujoco_scenes.scene_object import object_from_body
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

FOOT = 0.012  # metres, half the height of the post's foot
HINGE_FRICTION = 0.02  # N m
THROWN = 0.06  # metres


def seesaw(rng: np.random.Generator) -> Scene:
    """Samples a scene: a heavy ball, a lighter body on the plank's lower end, all from rest."""
    view = sampling.view(rng, distance=(1.25, 1.45), height=(0.55, 0.9), target_height=0.33)
    room, light = sampling.room(rng), sampling.light(rng)
    names = sampling.colours(rng, 3)
    plank = sample_material(rng, names[0], ("wood", "plastic"))
    size = np.array([rng.uniform(0.34, 0.4), rng.uniform(0.09, 0.12), rng.uniform(0.01, 0.014)])
    height = rng.uniform(0.12, 0.17)
    side = int(rng.choice([-1, 1]))  # +1: the ball falls on the right
    axes = view.level_axes()
    direction = poses.heading(axes, rng.uniform(-0.35, 0.35)) * side
    centre = axes[0] * rng.uniform(-0.05, 0.05) + axes[1] * rng.uniform(0.0, 0.2)
    model = Mjcf(room)
    set_firm_contacts(model)
    frame = add_link(model.world, "frame", centre, poses.heading_pitch(direction, 0.0))
    post = (height - 2.2 * size[2]) / 2
    stands = [
        add_geom(frame, "foot", "box", (0.08, size[1], FOOT), (0, 0, FOOT)),
        add_geom(frame, "post", "box", (0.02, 0.8 * size[1], post), (0, 0, post)),
        add_geom(frame, "axle", "cylinder", (0.008, 1.1 * size[1]), (0, 0, height), LYING, touches=False),
    ]
    # The ball's end (positive x) is raised; the other end touches the floor with its lower edge.
    slope = _slope(size, height)
    board = add_link(frame, "board", (0, 0, height), (np.cos(slope / 2), 0, -np.sin(slope / 2), 0))
    add_hinge(board, "axle", (0, 1, 0), friction=HINGE_FRICTION)
    add_geom(board, "board", "box", tuple(size), material=plank)
    lying = _lying(rng, names[1], centre, direction, height, slope, size)
    ball = _ball(rng, names[2], centre, direction, height, slope, size)
    add_body(model.world, lying, "lying")
    add_body(model.world, ball, "ball")
    return MujocoScene(
        family="seesaw",
        category_name="articulated",
        room=room,
        view=view,
        light=light,
        scene_objects=(
            object_from_body(ball, "ball"),
            plank.scene_object("seesaw", ["board"]),
            object_from_body(lying, "lying"),
            fixed_object("stand", stands),
        ),
        model=model.text(),
        caption=(
            f"{article(ball.name)} from rest falls onto the raised end of {article(plank.name)} seesaw, "
            f"which throws up {article(lying.name)} at rest"
        ),
        steps_per_second=1200,
        rejection_reason=_thrown,
        physics={"hinge_friction": HINGE_FRICTION},
    )


def _slope(size: np.ndarray, height: float) -> float:
    """Tilt in radians at which the lower edge of the plank's end touches the floor."""
    return float(np.arcsin((height - 1e-4) / np.hypot(size[0], size[2])) - np.arctan2(size[2], size[0]))


def _on_plank(
    centre: np.ndarray, direction: np.ndarray, height: float, slope: float, along: float, above: float
) -> np.ndarray:
    """World position [3] in metres, `along` the tilted plank from its middle and `above` its mid plane."""
    ahead, up = np.cos(slope) * along - np.sin(slope) * above, np.sin(slope) * along + np.cos(slope) * above
    return centre + direction * ahead + np.array([0, 0, height + up])


def _lying(
    rng: np.random.Generator,
    name: str,
    centre: np.ndarray,
    direction: np.ndarray,
    height: float,
    slope: float,
    size: np.ndarray,
) -> Body:
    """A light body on the lower end, tilted like the plank."""
    shapes: list[Shape] = ["box", "cylinder"]
    shape = shapes[rng.integers(2)]
    body = sampling.size_for_radius(shape, rng.uniform(0.07, 0.09))
    place = _on_plank(centre, direction, height, slope, -0.8 * size[0], size[2] + body[-1] + 1e-4)
    return sampling.body(
        rng, shape, name, body, place, quaternion=poses.heading_pitch(direction, -slope), materials=("rubber", "wood")
    )


def _ball(
    rng: np.random.Generator,
    name: str,
    centre: np.ndarray,
    direction: np.ndarray,
    height: float,
    slope: float,
    size: np.ndarray,
) -> Body:
    """A heavy ball above the raised end, which it reaches after 0.14 to 0.22 s."""
    radius = rng.uniform(0.075, 0.095)
    place = _on_plank(centre, direction, height, slope, 0.85 * size[0], size[2])
    place[2] += radius / np.cos(slope) + 0.5 * 9.81 * rng.uniform(0.14, 0.22) ** 2
    return sampling.body(rng, "ball", name, (radius,), place, materials=("steel", "marble", "clay"))


def _thrown(rollout: Rollout) -> str | None:
    """Checks that the lying body rises and separates from the plank."""
    lying, board = rollout.geoms["lying"].position, rollout.geoms["board"]
    up = np.stack([rotation(q)[:, 2] for q in board.quaternion])
    off = ((lying - board.position) * up).sum(axis=1)
    risen = lying[:, 2].max() - lying[0, 2]
    return None if risen > THROWN and off.max() - off[0] > 0.01 else "nothing is thrown up"
