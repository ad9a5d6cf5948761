"""Rigid scenes in MuJoCo: a scene in, a mesh sequence out. Any warning or non-finite state is an error."""

from functools import cache
from itertools import combinations
from xml.etree import ElementTree as Xml

import mujoco
import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.materials import FLOOR_FRICTION, MATERIALS
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.scene import FIRST_BODY, FLOOR, WALL, Room, Scene

STEPS_PER_SECOND = 1200
CONTACT_FREQUENCY = 300.0  # rad/s of the contact spring: about twelve steps per impact, 1 cm deep at 4 m/s
IMPEDANCE = 0.98
ROOM_REACH = 6.0

GEOM_TYPE = {"ball": "sphere", "box": "box", "cylinder": "cylinder", "capsule": "capsule"}


class UnstableSimulationError(RuntimeError):
    """MuJoCo warned, or its state is not finite."""


def motion(scene: Scene, frames: int, fps: float) -> dict[int, Track]:
    """Rigid motion of a scene's bodies, sampled at `fps` from t = 0: instance (3... in order) to track.

    Raises UnstableSimulationError when MuJoCo warns or diverges, ValueError for an fps that its steps do not divide.
    """
    model = mujoco.MjModel.from_xml_string(to_mjcf(scene))
    data = mujoco.MjData(model)
    steps = STEPS_PER_SECOND / fps
    if steps != round(steps):
        raise ValueError(f"fps {fps}: expected a divisor of {STEPS_PER_SECOND}")
    for number, body in enumerate(scene.bodies):
        linear, angular = scene.world_velocity(body)
        data.qvel[6 * number : 6 * number + 3] = linear
        data.qvel[6 * number + 3 : 6 * number + 6] = _rotate_back(body.quaternion, angular)
    poses = np.empty((frames, len(scene.bodies), 7))
    warnings: list[str] = []
    mujoco.set_mju_user_warning(warnings.append)  # without a handler MuJoCo writes a log file where it is called
    try:
        for frame in range(frames):
            if frame:
                mujoco.mj_step(model, data, int(round(steps)))
            mujoco.mj_kinematics(model, data)
            _refuse_warnings(data, warnings, frame)
            poses[frame, :, :3] = data.xpos[1:]
            poses[frame, :, 3:] = data.xquat[1:]
    finally:
        mujoco.set_mju_user_warning(None)
    return {
        FIRST_BODY + number: Track(poses[:, number, :3].copy(), poses[:, number, 3:].copy())
        for number in range(len(scene.bodies))
    }


def _refuse_warnings(data: mujoco.MjData, warnings: list[str], frame: int) -> None:
    if data.warning.number.any() or warnings:
        raised = [mujoco.mjtWarning(i).name for i in np.nonzero(data.warning.number)[0]]
        raise UnstableSimulationError(f"MuJoCo warned before frame {frame}: {' '.join(raised + warnings)}")
    if not (np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all()):
        raise UnstableSimulationError(f"state is not finite at frame {frame}")


def _rotate_back(quaternion: tuple[float, ...], vector: np.ndarray) -> np.ndarray:
    """A world vector in body axes (MuJoCo keeps a free joint's angular velocity there)."""
    rotation = Track(np.zeros((1, 3)), np.array([quaternion])).rotation()[0]
    return rotation.T @ vector


def to_mjcf(scene: Scene) -> str:
    """MJCF text of a scene: contacts are explicit pairs, so that each has its own restitution and friction."""
    root = Xml.Element("mujoco")
    option = Xml.SubElement(root, "option", timestep=repr(1 / STEPS_PER_SECOND))
    Xml.SubElement(option, "flag", autoreset="disable")
    world = Xml.SubElement(root, "worldbody")
    passive = {"contype": "0", "conaffinity": "0"}
    Xml.SubElement(world, "geom", passive, name="floor", type="plane", size="0 0 1")
    wall = {"type": "plane", "size": "0 0 1", "pos": _text(0, scene.room.depth, 0), "zaxis": "0 -1 0"}
    Xml.SubElement(world, "geom", passive | wall, name="wall")
    for number, body in enumerate(scene.bodies):
        pose = {"pos": _text(*body.position), "quat": _text(*body.quaternion)}
        element = Xml.SubElement(world, "body", pose, name=f"body{number}")
        Xml.SubElement(element, "freejoint")
        shape = {"type": GEOM_TYPE[body.shape], "size": _text(*body.size), "density": repr(float(body.density))}
        Xml.SubElement(element, "geom", passive | shape, name=f"geom{number}")
    contact = Xml.SubElement(root, "contact")
    for number, body in enumerate(scene.bodies):
        friction = np.sqrt(body.friction * FLOOR_FRICTION)
        for surface in ("floor", "wall"):
            _pair(contact, surface, f"geom{number}", body.restitution, friction)
    for (i, first), (j, second) in combinations(enumerate(scene.bodies), 2):
        restitution = np.sqrt(first.restitution * second.restitution)
        _pair(contact, f"geom{i}", f"geom{j}", restitution, np.sqrt(first.friction * second.friction))
    return Xml.tostring(root, encoding="unicode")


def _pair(contact: Xml.Element, first: str, second: str, restitution: float, friction: float) -> None:
    """A contact whose spring and damper give the restitution."""
    damping = 2 * damping_ratio(restitution) * CONTACT_FREQUENCY
    Xml.SubElement(
        contact,
        "pair",
        geom1=first,
        geom2=second,
        condim="4",
        friction=_text(friction, friction, 0.005, 0.0001, 0.0001),
        solref=_text(-(CONTACT_FREQUENCY**2), -damping),
        solimp=_text(IMPEDANCE, IMPEDANCE, 0.001, 0.5, 2),
    )


@cache
def damping_ratio(restitution: float) -> float:
    """Damping ratio z of a spring and damper that cannot pull, from which a body leaves at `restitution` of its speed.

    e = exp(-z/w (pi - atan2(2 z w, w^2 - z^2))) with w = sqrt(1 - z^2) (Schwager and Poeschel, "Coefficient of
    restitution and linear-dashpot model revisited", 2007), inverted by bisection. Raises ValueError outside 0.14 < e < 1, which z in 0..1 cannot give.
    """
    if not 0.14 < restitution < 1:
        raise ValueError(f"restitution {restitution}: expected above 0.14 and below 1")
    low, high = 0.0, 1.0
    for _ in range(50):
        z = (low + high) / 2
        w = np.sqrt(1 - z * z)
        leaves_at = np.exp(-z / w * (np.pi - np.arctan2(2 * z * w, w * w - z * z)))
        low, high = (z, high) if leaves_at > restitution else (low, z)
    return (low + high) / 2


def _text(*numbers: float) -> str:
    return " ".join(repr(float(n)) for n in numbers)


def meshes(scene: Scene, tracks: dict[int, Track], detail: int = 3) -> MeshSequence:
    """The scene as a mesh sequence. Instances: 1 floor, 2 wall, 3... the bodies; `detail` as in `shapes.mesh`."""
    parts = [_Part(*floor_mesh(scene.room), FLOOR, scene.room.floor, Texture.CHECKER)]
    parts.append(_Part(*wall_mesh(scene.room), WALL, scene.room.wall, Texture.PLAIN))
    for body, (instance, track) in zip(scene.bodies, tracks.items(), strict=True):
        rest, faces = shapes.mesh(body.shape, body.size, detail)
        texture = MATERIALS[body.material].texture
        parts.append(_Part(track.apply(rest), faces, rest, instance, body.rgb, texture))
    return _join(parts, len(next(iter(tracks.values())).position), tracks)


class _Part:
    """One instance's share of the mesh."""

    def __init__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        rest: np.ndarray,
        instance: int,
        colour: tuple[float, float, float],
        texture: Texture,
    ) -> None:
        self.vertices, self.faces, self.rest = vertices, faces, rest
        self.instance, self.colour, self.texture = instance, colour, texture


def floor_mesh(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World vertices, faces and texture coordinates of the floor, from far before the camera to the wall."""
    corner = np.array([-ROOM_REACH, -ROOM_REACH, 0])
    vertices, faces = shapes.rectangle(corner, np.array([2 * ROOM_REACH, 0, 0]), np.array([0, room.depth + ROOM_REACH, 0]))
    c, s = np.cos(room.texture_angle), np.sin(room.texture_angle)
    return vertices, faces, vertices @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def wall_mesh(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World vertices, faces and texture coordinates of the back wall."""
    corner = np.array([-ROOM_REACH, room.depth, 0])
    vertices, faces = shapes.rectangle(corner, np.array([2 * ROOM_REACH, 0, 0]), np.array([0, 0, ROOM_REACH]))
    return vertices, faces, vertices


def _join(parts: list[_Part], frames: int, tracks: dict[int, Track]) -> MeshSequence:
    count = [len(p.rest) for p in parts]
    offset = np.cumsum([0, *count[:-1]])
    return MeshSequence(
        vertices=np.concatenate([np.broadcast_to(p.vertices, (frames, len(p.rest), 3)) for p in parts], axis=1),
        faces=np.concatenate([p.faces + o for p, o in zip(parts, offset, strict=True)]).astype(np.int32),
        instance=np.concatenate([np.full(len(p.faces), p.instance, dtype=np.uint8) for p in parts]),
        rest=np.concatenate([p.rest for p in parts]),
        colour=np.concatenate([np.tile(np.float32(p.colour), (n, 1)) for p, n in zip(parts, count, strict=True)]),
        texture=np.concatenate([np.full(n, p.texture, dtype=np.uint8) for p, n in zip(parts, count, strict=True)]),
        tracks=tracks,
    )
