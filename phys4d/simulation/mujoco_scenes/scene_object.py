"""Visible objects of a MuJoCo scene: one instance, drawn from geoms or from a flex of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Body, Colour, Shape
from phys4d.simulation.later import CLEAR, CLEAR_AT_FIRST, Occupied
from phys4d.simulation.mesh_sequence import Texture, Track
from phys4d.simulation.mujoco_scenes.rollout import Rollout
from phys4d.simulation.mujoco_scenes.subdivision import Subdivision
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scenery.materials import MATERIALS

SHAPES: dict[mujoco.mjtGeom, Shape] = {
    mujoco.mjtGeom.mjGEOM_SPHERE: "ball",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
}
USUAL_DETAIL = 3
SMALL = 0.03  # metres: smaller geoms, such as grains and links of a rope, are points for `occupied`
SIZE_COUNT = {"ball": 1, "box": 3, "cylinder": 2, "capsule": 2}  # entries of MuJoCo's geom_size that a shape uses


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One instance of a scene: name, look, and the geoms or the flex of the model that it is drawn from.

    name, rgb, texture: as in the caption, and its look.
    geoms: names; drawn as balls, boxes, cylinders or capsules in their own coordinates.
    flex: name; a flex of dimension 2 is drawn by its triangles, one of dimension 3 by its surface.
    smooth: number of subdivisions of the flex at detail USUAL_DETAIL.
    rest: float64 [V, 3], metres, texture coordinates of the flex's vertices; default: their positions in the first
        frame.
    shades: brightness factor of each geom.
    coarser: levels of detail below that of a single body.
    dynamic: the object can move.
    about: further entries of the clip's json; SI units.
    """

    name: str
    rgb: Colour
    texture: Texture
    geoms: tuple[str, ...] = ()
    flex: str = ""
    smooth: int = 0
    rest: np.ndarray | None = None
    shades: tuple[float, ...] = ()
    coarser: int = 0
    dynamic: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)


def object_from_body(body: Body, geom: str) -> SceneObject:
    """A rigid body as a scene object, drawn as the geom of this name."""
    about = {
        "shape": body.shape, "material": body.material, "size": list(body.size), "mass": body.mass,
        "friction": body.friction, "rolling_friction": body.rolling_friction, "restitution": body.restitution,
    }  # fmt: skip
    return SceneObject(
        name=body.name, rgb=body.rgb, texture=MATERIALS[body.material].texture, geoms=(geom,), about=about
    )


def occupied(rollout: Rollout, followed: bool) -> Occupied:
    """Where everything but floor and wall is; flexes and small geoms as points.

    rollout: at least one frame.
    followed: it has all frames until the last later event.
    """
    solids: list[Solid] = []
    moving: list[tuple[Shape, tuple[float, ...], Track]] = []
    points = [np.empty((0, 3)), *(vertices.reshape(-1, 3) for vertices in rollout.flexes.values())]
    for name, track in rollout.geoms.items():
        geom = rollout.model.geom(name)
        shape = SHAPES.get(mujoco.mjtGeom(int(geom.type[0])))
        if shape is None:
            continue  # floor and wall are planes
        size = tuple(float(length) for length in geom.size[: SIZE_COUNT[shape]])
        (x, y, z), (w, i, j, k) = track.position[0], track.quaternion[0]
        if max(size) < SMALL:
            points.append(track.position)
        elif np.ptp(track.position, axis=0).max() > 0:
            moving.append((shape, size, track))
        else:
            solids.append(Solid(shape, size, (float(x), float(y), float(z)), (float(w), float(i), float(j), float(k))))
    return Occupied(solids, moving, np.concatenate(points), CLEAR if followed else CLEAR_AT_FIRST)


@dataclass(frozen=True)
class Surface:
    """The triangles of an object over time.

    vertices: float64 [T, V, 3], world metres.
    faces: int [F, 3].
    rest: float64 [V, 3], metres, texture coordinates.
    shade: float64 [V], brightness factor.
    track: pose over time if the object is a single geom.
    """

    vertices: np.ndarray
    faces: np.ndarray
    rest: np.ndarray
    shade: np.ndarray
    track: Track | None = None


def surface_of_geoms(
    model: mujoco.MjModel, scene_object: SceneObject, poses: Mapping[str, Track], detail: int
) -> Surface:
    """The surface of an object made of geoms.

    model: the MuJoCo model.
    scene_object: names the geoms.
    poses: pose of each geom by name.
    detail: subdivision level, see `shapes.mesh`.
    """
    vertices, faces, rest, shade = [], [], [], []
    count = 0
    for number, name in enumerate(scene_object.geoms):
        geom = model.geom(name)
        shape = SHAPES[mujoco.mjtGeom(int(geom.type[0]))]
        size = tuple(float(length) for length in geom.size[: SIZE_COUNT[shape]])
        points, triangles = shapes.mesh(shape, size, max(detail - scene_object.coarser, 0))
        vertices.append(poses[name].apply(points))
        faces.append(triangles + count)
        rest.append(points)
        shade.append(np.full(len(points), scene_object.shades[number] if scene_object.shades else 1.0))
        count += len(points)
    track = poses[scene_object.geoms[0]] if len(scene_object.geoms) == 1 else None
    return Surface(
        np.concatenate(vertices, axis=1), np.concatenate(faces), np.concatenate(rest), np.concatenate(shade), track
    )


def surface_of_flex(model: mujoco.MjModel, scene_object: SceneObject, vertices: np.ndarray, detail: int) -> Surface:
    """The surface of an object that is a flex.

    model: the MuJoCo model.
    scene_object: names the flex.
    vertices: float64 [T, V, 3], metres, of all points of the flex.
    detail: subdivision level, see `shapes.mesh`.
    """
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, scene_object.flex)
    if model.flex_dim[number] == 2:
        first, count, elements = model.flex_elemdataadr[number], model.flex_elemnum[number], model.flex_elem
    else:
        first, count, elements = model.flex_shelldataadr[number], model.flex_shellnum[number], model.flex_shell
    # Points inside a solid are not drawn.
    seen, corners = np.unique(elements[first : first + 3 * count], return_inverse=True)
    faces: np.ndarray = corners.reshape(-1, 3)
    rest = (vertices[0] if scene_object.rest is None else scene_object.rest)[seen]
    vertices = vertices[:, seen]
    for _ in range(max(scene_object.smooth + detail - USUAL_DETAIL, 0)):
        finer = Subdivision(faces, len(rest))
        vertices, rest, faces = finer.refine(vertices), finer.refine(rest), finer.faces
    return Surface(vertices, faces, rest, np.ones(len(rest)))
