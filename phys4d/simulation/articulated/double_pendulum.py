"""Double pendulum: two bars hinged to each other swing down from an axle."""

from xml.etree import ElementTree as Xml

import numpy as np

from phys4d.simulation.articulated.linkage import (
    LYING,
    PartMaterial,
    add_geom,
    add_hinge,
    add_link,
    fixed_object,
    sample_material,
    set_joint_state,
)
from phys4d.simulation.articulated.rotation_angles import accumulated_rotation
from phys4d.simulation.caption import article
from phys4d.simulation.mujoco_scenes.mjcf import Mjcf
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import poses, sampling

HALF_THICK = 0.014
SWUNG = 1.0  # radians


def double_pendulum(rng: np.random.Generator) -> Scene:
    """Samples a scene: both bars from rest, the upper one 50 to 110 degrees off the vertical, the lower one at any
    angle.
    """
    view = sampling.view(rng, distance=(1.45, 1.65), height=(0.7, 1.0), target_height=0.5)
    room, light = sampling.room(rng), sampling.light(rng)
    upper, lower = (sample_material(rng, name, ("wood", "plastic", "steel")) for name in sampling.colours(rng, 2))
    lengths = rng.uniform(0.26, 0.34), rng.uniform(0.22, 0.3)
    wide = rng.uniform(0.036, 0.05)
    disc = rng.uniform(0.085, 0.12)
    axes = view.level_axes()
    direction = poses.heading(axes, rng.uniform(-0.3, 0.3))
    away = np.array([-direction[1], direction[0], 0.0])
    pivot = axes[0] * rng.uniform(-0.08, 0.08) + axes[1] * rng.uniform(0.0, 0.2)
    pivot = pivot + np.array([0, 0, sum(lengths) + disc + rng.uniform(0.06, 0.12)])
    model = Mjcf(room, integrator="RK4")
    axle = (room.depth - pivot[1]) / away[1]
    frame = add_link(model.world, "frame", pivot, poses.heading_pitch(direction, 0.0))
    mounted = add_geom(
        frame, "axle", "cylinder", (0.018, axle / 2 + 0.04), (0, axle / 2 - 0.04, 0), LYING, touches=False
    )
    near = -2 * HALF_THICK - 0.004
    first = add_link(frame, "upper")
    add_hinge(first, "shoulder", (0, 1, 0))
    geoms = [_bar(first, "upper", wide, lengths[0], upper)]
    second = add_link(first, "lower", (0, near, -lengths[0]))
    add_hinge(second, "elbow", (0, 1, 0))
    bars = [_bar(second, "lower", wide, lengths[1], lower)]
    for name, size, place in (("disc", (disc, 0.03), (0, 0, -lengths[1])), ("pin", (0.014, 0.031), (0, -near / 2, 0))):
        bars.append(add_geom(second, name, "cylinder", size, place, LYING, lower, touches=False))
    side = rng.choice([-1, 1])
    shoulder = side * rng.uniform(0.9, 1.9)
    elbow = rng.uniform(-2.2, 2.2)
    return MujocoScene(
        family="double_pendulum",
        category_name="articulated",
        room=room,
        view=view,
        light=light,
        scene_objects=(
            upper.scene_object("bar", geoms),
            lower.scene_object("bar", bars, shades=(1.0, 1.0, 0.4)),
            fixed_object("axle", [mounted]),
        ),
        model=model.text(),
        caption=(
            f"{article(upper.name)} bar on an axle and {article(lower.name)} bar hinged to its end, both from rest, "
            "swing down"
        ),
        steps_per_second=1200,
        start=set_joint_state({"shoulder": shoulder, "elbow": elbow}),
        rejection_reason=_swung,
        endless=True,
        physics={"lengths": list(lengths)},
    )


def _bar(body: Xml.Element, name: str, wide: float, length: float, kind: PartMaterial) -> str:
    """A flat bar that extends beyond both pivots by half of its width."""
    size = (wide, HALF_THICK, length / 2 + wide)
    return add_geom(body, name, "box", size, (0, 0, -length / 2), material=kind, touches=False)


def _swung(rollout: Rollout) -> str | None:
    """Checks that both bars turn visibly."""
    turned = min(accumulated_rotation(rollout.geoms[name])[-1] for name in ("upper", "lower"))
    return None if turned > SWUNG else "little swinging"
