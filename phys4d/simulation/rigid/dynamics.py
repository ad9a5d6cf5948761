"""Simulates rigid scenes in MuJoCo: a scene in, tracks out; warnings and non-finite states raise Unstable."""

import math
from itertools import combinations
from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation.body import Body
from phys4d.simulation.mesh_sequence import Track, rotation
from phys4d.simulation.mujoco_scenes.holding import Holding
from phys4d.simulation.mujoco_scenes.mjcf import geom_shape
from phys4d.simulation.mujoco_scenes.recording import Recorder, Recording
from phys4d.simulation.mujoco_scenes.rollout import advance
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.scene import FIRST_BODY, FLOOR, WALL, Unstable
from phys4d.simulation.scenery.materials import FLOOR_FRICTION, round_contact

STEPS_PER_SECOND = 1200
CONTACT_FREQUENCY = 300.0  # rad/s of the contact spring: about twelve steps per impact, penetration 1 cm at 4 m/s
IMPEDANCE = 0.98
# MuJoCo solves friction and normal force as one convex problem, which lifts a fast slipping body: a ball with backspin
# by 2 cm. In scenes with initial spin, friction cones are elliptic and slip is damped at this rate instead of within
# one step: the lift is then 1 mm, and bodies held by friction creep by up to 5 cm/s while they are accelerated.
SLIP_DAMPING = 60.0  # 1/s


def simulate_tracks(
    scene: RigidBodies, frames: int, fps: float, recorder: Recorder | None = None
) -> dict[int, Track]:
    """Simulates a scene's bodies, sampled at `fps` from t = 0: instance (3... in order) -> track.

    scene: the bodies, room and props.
    frames: T, number of frames.
    fps: frames per second; must divide STEPS_PER_SECOND.
    recorder: of contacts and velocities.

    Raises Unstable if MuJoCo warns or the state is not finite, ValueError if fps does not divide STEPS_PER_SECOND.
    """
    model = mujoco.MjModel.from_xml_string(to_mjcf(scene))
    data = mujoco.MjData(model)
    steps = STEPS_PER_SECOND / fps
    if steps != round(steps):
        raise ValueError(f"fps {fps}: expected a divisor of {STEPS_PER_SECOND}")
    for number, body in enumerate(scene.all_bodies):
        linear, angular = scene.world_velocity(body)
        first = model.body_dofadr[1 + number]
        if body.rod is None:
            data.qvel[first : first + 3] = linear
            data.qvel[first + 3 : first + 6] = _rotate_back(body.quaternion, angular)
        else:
            data.qvel[first] = angular @ body.rod.axis
    hold = Holding({f"body{n}": body.held_until for n, body in enumerate(scene.all_bodies) if body.held_until})
    poses = np.empty((frames, len(scene.all_bodies), 7))
    warnings: list[str] = []
    # Without a handler MuJoCo writes a log file into the working directory.
    mujoco.set_mju_user_warning(warnings.append)
    try:
        for frame in range(frames):
            if frame:
                advance(model, data, round(steps), hold if hold.until else None, recorder)
            mujoco.mj_kinematics(model, data)
            if recorder is not None:
                recorder.frame(model, data)
            _refuse_warnings(data, warnings, frame)
            poses[frame, :, :3] = data.xpos[1:]
            poses[frame, :, 3:] = data.xquat[1:]
    finally:
        mujoco.set_mju_user_warning(None)
    return {
        FIRST_BODY + number: Track(poses[:, number, :3].copy(), poses[:, number, 3:].copy())
        for number in range(len(scene.all_bodies))
    }


def record(scene: RigidBodies, frames: int, fps: float) -> Recording:
    """Simulates a scene once more, and records its contacts and velocities; arguments as of `simulate_tracks`."""
    bodies = {FIRST_BODY + number: f"geom{number}" for number in range(len(scene.all_bodies))}
    rods = {instance: f"rod{number}" for number, instance in scene.rod_instances.items()}
    rigid = bodies | rods
    still = {"floor": FLOOR} | dict.fromkeys(scene.room.walls(), WALL)
    still |= {f"prop{i}": FIRST_BODY + len(rigid) + i for i in range(len(scene.props))}
    recorder = Recorder(still | {name: instance for instance, name in rigid.items()}, {}, rigid)
    simulate_tracks(scene, frames, fps, recorder)
    return recorder.recording()


def _refuse_warnings(data: mujoco.MjData, warnings: list[str], frame: int) -> None:
    if data.warning.number.any() or warnings:
        raised = [mujoco.mjtWarning(i).name for i in np.nonzero(data.warning.number)[0]]
        raise Unstable(f"MuJoCo warned before frame {frame}: {' '.join(raised + warnings)}")
    if not (np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all()):
        raise Unstable(f"state is not finite at frame {frame}")


def _rotate_back(quaternion: tuple[float, ...], vector: np.ndarray) -> np.ndarray:
    """Rotates a world vector into body axes, in which MuJoCo stores a free joint's angular velocity."""
    return rotation(np.array(quaternion)).T @ vector


def to_mjcf(scene: RigidBodies) -> str:
    """MJCF text of a scene; contacts are explicit pairs, each with its own restitution and friction."""
    root = Xml.Element("mujoco")
    option = Xml.SubElement(root, "option", timestep=repr(1 / STEPS_PER_SECOND), cone="elliptic")
    Xml.SubElement(option, "flag", autoreset="disable")
    world = Xml.SubElement(root, "worldbody")
    passive = {"contype": "0", "conaffinity": "0"}
    Xml.SubElement(world, "geom", passive, name="floor", type="plane", size="0 0 1")
    for name, (point, normal) in scene.room.walls().items():
        wall = {"type": "plane", "size": "0 0 1", "pos": _text(*point), "zaxis": _text(*normal)}
        Xml.SubElement(world, "geom", passive | wall, name=name)
    for number, prop in enumerate(scene.props):
        pose = {"pos": _text(*prop.position), "quat": _text(*prop.quaternion)}
        Xml.SubElement(world, "geom", passive | pose | geom_shape(root, prop, f"prop{number}"), name=f"prop{number}")
    for number, body in enumerate(scene.all_bodies):
        _add_body(root, world, number, body, passive)
    contact = Xml.SubElement(root, "contact")
    for number, body in enumerate(scene.all_bodies):
        surfaces = dict.fromkeys(["floor", *scene.room.walls()], FLOOR_FRICTION)
        surfaces |= {f"prop{i}": prop.friction for i, prop in enumerate(scene.props)}
        for surface, friction in surfaces.items():
            grip = np.sqrt(body.friction * friction)
            _pair(contact, surface, f"geom{number}", body.restitution, grip, _rolling(body))
    for (i, first), (j, second) in combinations(enumerate(scene.all_bodies), 2):
        restitution = np.sqrt(first.restitution * second.restitution)
        friction = np.sqrt(first.friction * second.friction)
        rolling = max(_rolling(first), _rolling(second))
        _pair(contact, f"geom{i}", f"geom{j}", restitution, friction, rolling)
        for rod, other in ((i, j), (j, i)):
            if scene.all_bodies[rod].rod is not None:
                _pair(contact, f"rod{rod}", f"geom{other}", restitution, friction, rolling)
    if any(body.turning or body.topspin for body in scene.all_bodies):
        option.set("cone", "elliptic")
        for pair in contact:
            # Negative numbers select MuJoCo's direct format (stiffness, damping); stiffness must not be 0.
            pair.set("solreffriction", _text(-0.1, -SLIP_DAMPING))
    return Xml.tostring(root, encoding="unicode")


def _add_body(
    root: Xml.Element, world: Xml.Element, number: int, body: Body, passive: dict[str, str]
) -> None:
    pose = {"pos": _text(*body.position), "quat": _text(*body.quaternion)}
    element = Xml.SubElement(world, "body", pose, name=f"body{number}")
    shape = geom_shape(root, body, f"body{number}") | {"density": repr(float(body.density))}
    if body.asset is not None:
        six = body.density * body.asset.inertia[(0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)]  # xx, yy, zz, xy, xz, yz
        full = {"pos": "0 0 0", "mass": _text(body.mass), "fullinertia": _text(*six)}
        Xml.SubElement(element, "inertial", full)
    if body.held_until:
        element.set("gravcomp", "1")
    if body.rod is None:
        Xml.SubElement(element, "freejoint")
    else:
        axis = _rotate_back(body.quaternion, np.array(body.rod.axis))
        Xml.SubElement(element, "joint", type="hinge", pos=_text(0, 0, body.rod.length), axis=_text(*axis))
        half = {"size": _text(body.rod.radius, body.rod.length / 2), "pos": _text(0, 0, body.rod.length / 2)}
        Xml.SubElement(element, "geom", passive | half, type="cylinder", mass="0", name=f"rod{number}")
    Xml.SubElement(element, "geom", passive | shape, name=f"geom{number}")


def _rolling(body: Body) -> float:
    """Lever arm of a round body; 0 of a box or an asset, whose edges the torque would hold back."""
    return 0.0 if body.shape in ("box", "mesh") else body.rolling_friction


def _pair(
    contact: Xml.Element, first: str, second: str, restitution: float, friction: float, rolling: float
) -> None:
    """A contact pair whose spring and damper give this restitution.

    rolling: metres, lever arm of the resistance to rolling, which needs condim 6; 0 between bodies that do not roll.
    """
    slide, spin, roll = round_contact(friction, rolling)
    damping = 2 * damping_ratio(restitution) * CONTACT_FREQUENCY
    Xml.SubElement(
        contact,
        "pair",
        geom1=first,
        geom2=second,
        condim="6" if rolling else "3",
        friction=_text(slide, slide, spin, roll, roll),
        solref=_text(-(CONTACT_FREQUENCY**2), -damping),
        solimp=_text(IMPEDANCE, IMPEDANCE, 0.001, 0.5, 2),
    )


def damping_ratio(restitution: float) -> float:
    """Damping ratio of a spring-damper contact, which cannot pull, for a coefficient of restitution.

    e = exp(-z/w (pi - atan2(2 z w, w^2 - z^2))) with w = sqrt(1 - z^2), inverted by bisection. Source: Schwager and
    Poeschel, "Coefficient of restitution and linear-dashpot model revisited" (2007).

    restitution: rebound speed over impact speed.

    Raises ValueError outside 0.14 < restitution < 1, which no ratio between 0 and 1 gives.
    """
    if not 0.14 < restitution < 1:
        raise ValueError(f"restitution {restitution}: expected above 0.14 and below 1")
    low, high = 0.0, 1.0
    for _ in range(50):
        z = (low + high) / 2
        w = math.sqrt(1 - z * z)
        leaves_at = math.exp(-z / w * (math.pi - math.atan2(2 * z * w, w * w - z * z)))
        low, high = (z, high) if leaves_at > restitution else (low, z)
    return (low + high) / 2


def _text(*numbers: float) -> str:
    return " ".join(repr(float(n)) for n in numbers)
