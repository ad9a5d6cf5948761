"""Wind: a level wind of stated speed blows a flag around its pole, or lifts a curtain."""

import numpy as np

from phys4d.simulation.body import Prop
from phys4d.simulation.caption import article
from phys4d.simulation.cloth import fabric, rack
from phys4d.simulation.cloth.fabric import Cloth
from phys4d.simulation.mujoco_scenes.mjcf import disable_contacts
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.scene import Scene, View
from phys4d.simulation.scenery import poses, sampling
from phys4d.simulation.scenery.materials import muted

BLOWN = 0.12  # metres that the cloth's centre must move along the wind
PLEATS = (2, 3)  # of a curtain
GATHERED, STEEPEST = 0.85, 0.895  # width of a pleated curtain over that of its cloth, and the slope that gives it
THIN = ("cotton", "wool")


def flag(rng: np.random.Generator) -> Scene:
    """Samples a scene: the flag starts 110 to 150 degrees away from the direction of the wind."""
    view = sampling.view(rng, distance=(1.3, 1.5), height=(0.6, 0.9), target_height=0.5)
    axes = view.level_axes()
    (name,) = sampling.colours(rng, 1)
    cloth = fabric.sample_cloth(rng, name, (rng.uniform(0.22, 0.27), rng.uniform(0.3, 0.36)), fabrics=THIN)
    side = float(rng.choice([-1, 1]))
    turn = rng.choice([-1, 1]) * rng.uniform(1.9, 2.6)
    points_to = poses.heading(axes, turn) * side
    top = rng.uniform(0.85, 0.92)
    foot = axes[0] * -side * rng.uniform(0.0, 0.12) + axes[1] * rng.uniform(0.0, 0.2)
    # The flag's first axis points down the pole, its second axis away from it.
    down = np.array([0.0, 0.0, -1.0]) * (cloth.flat[:, :1] + cloth.half[0])
    points = foot + np.array([0, 0, top]) + down + (cloth.flat[:, 1:2] + cloth.half[1]) * points_to
    pinned = np.arange(cloth.count) * cloth.count
    speed = round(float(rng.uniform(2.5, 4.0)), 1)
    props = (rack.pole(foot, top + 0.03, muted(rng, 0.3, 0.6)),)
    words = f"a level wind of {speed:.1f} m/s to the {'right' if side > 0 else 'left'}"
    return _blown(
        rng, "flag", view, cloth, points, pinned, props, side * speed * axes[0],
        f"{words} blows {article(cloth.name)} at rest round a pole",
    )  # fmt: skip


def curtain(rng: np.random.Generator) -> Scene:
    """Samples a scene: a curtain hangs from a bar; the wind blows across it."""
    view = sampling.view(rng, distance=(1.3, 1.5), height=(0.6, 0.9), target_height=0.42)
    axes = view.level_axes()
    (name,) = sampling.colours(rng, 1)
    cloth = fabric.sample_cloth(rng, name, (rng.uniform(0.29, 0.34), rng.uniform(0.28, 0.36)), fabrics=THIN)
    side = float(rng.choice([-1, 1]))
    # The wind is along the camera's right; the curtain is oblique to the camera.
    across = poses.heading(axes, rng.choice([-1, 1]) * rng.uniform(0.5, 0.95))
    height = 2 * cloth.half[0] + rng.uniform(0.1, 0.18)
    middle = -side * rng.uniform(0.1, 0.25) * axes[0] + rng.uniform(0.05, 0.2) * axes[1]
    middle = middle + np.array([0, 0, height])
    down = np.array([0.0, 0.0, -1.0])
    pleats = int(rng.choice(PLEATS))
    along, off = _pleats(cloth.flat[:, 1], cloth.half[1], pleats)
    points = middle + (cloth.flat[:, :1] + cloth.half[0]) * down + along[:, None] * across
    points = points + off[:, None] * np.cross(across, down)
    reach = (cloth.half[1] + 0.05) * across
    props = rack.rack(middle - reach, middle + reach, muted(rng, 0.3, 0.6))
    speed = round(float(rng.uniform(2.7, 3.7)), 1)
    words = f"a level wind of {speed:.1f} m/s to the {'right' if side > 0 else 'left'}"
    return _blown(
        rng, "curtain", view, cloth, points, np.arange(cloth.count), props, side * speed * axes[0],
        f"{words} lifts {article(cloth.name)} that hangs in {pleats} pleats at rest from a bar",
    )  # fmt: skip


def _pleats(place: np.ndarray, half: float, pleats: int) -> tuple[np.ndarray, np.ndarray]:
    """Where points of a flat cloth are along a bar from which it hangs in pleats, and in front of the bar; metres.

    place: [N], metres along the flat cloth, from -half to half.
    half: metres.
    pleats: their number.
    """
    x = np.linspace(-half * GATHERED, half * GATHERED, 2000)
    number = 2 * np.pi * pleats / (2 * half * GATHERED)
    way = np.concatenate([[0.0], np.cumsum(np.hypot(1, STEEPEST * np.cos(number * (x[1:] + x[:-1]) / 2)))])
    along = np.interp((place + half) / (2 * half), way / way[-1], x)
    return along, STEEPEST / number * np.sin(number * along)


def _blown(
    rng: np.random.Generator,
    family: str,
    view: View,
    cloth: Cloth,
    points: np.ndarray,
    pinned: np.ndarray,
    props: tuple[Prop, ...],
    wind: np.ndarray,
    caption: str,
) -> Scene:
    """The scene of a cloth in a wind (m/s, world [3])."""
    room = sampling.room(rng)
    mjcf = fabric.model(room, props)
    disable_contacts(mjcf, "prop")
    fabric.add_cloth(mjcf, cloth, points, pinned=pinned)
    x, y, z = (float(value) for value in wind)

    def rejection_reason(rollout: Rollout) -> str | None:
        middle = rollout.flexes["cloth"].mean(axis=1)
        way = (middle - middle[0]) @ wind / np.linalg.norm(wind)
        return None if way.max() > BLOWN else "little effect of the wind"

    return fabric.scene(
        rng, family, view, room, mjcf, (fabric.scene_object(cloth),), caption, rejection_reason,
        props=props, wind=(x, y, z), physics={"wind": [x, y, z]}, endless=True,
    )  # fmt: skip
