"""One thing that is seen, and of which parts of a MuJoCo model it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

from phys4d.simulation import shapes
from phys4d.simulation.body import Body, Colour
from phys4d.simulation.mesh_sequence import Texture, Track
from phys4d.simulation.stage.materials import MATERIALS
from phys4d.simulation.world.subdivision import Subdivision

SHAPES = {
    mujoco.mjtGeom.mjGEOM_SPHERE: "ball",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
}
USUAL_DETAIL = 3
FINE = {"ball": 1, "box": 3, "cylinder": 2, "capsule": 2}  # numbers of MuJoCo's geom_size that a shape uses


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An instance: what it is called and looks like, and either the geoms or the flex of the model that it is.

    geoms: names; drawn as spheres, boxes, cylinders or capsules, in their own coordinates. flex: name; of dimension 2
    its triangles, of 3 its shell. smooth: how often these are subdivided at the usual detail. rest: float64 [V, 3]
    metres, coordinates of the flex's vertices for the texture, those of the first frame where there are none.
    shades: brightness of each geom. coarser: steps of detail fewer than a single body would have. about: what a clip's
    json says of it; SI units.
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


def of_body(body: Body, geom: str) -> Thing:
    """A rigid body as a thing, drawn as the geom of this name."""
    about = {
        "shape": body.shape, "material": body.material, "size": list(body.size), "mass": body.mass,
        "friction": body.friction, "restitution": body.restitution,
    }  # fmt: skip
    return Thing(name=body.name, rgb=body.rgb, texture=MATERIALS[body.material].texture, geoms=(geom,), about=about)


@dataclass(frozen=True)
class Surface:
    """The triangles of a thing over time.

    vertices: float64 [T, V, 3] world metres. faces: int [F, 3]. rest: float64 [V, 3]. shade: float64 [V].
    track: where the thing is a single geom.
    """

    vertices: np.ndarray
    faces: np.ndarray
    rest: np.ndarray
    shade: np.ndarray
    track: Track | None = None


def of_geoms(model: mujoco.MjModel, thing: Thing, poses: Mapping[str, Track], detail: int) -> Surface:
    """The surface of a thing made of geoms; poses: of each geom by its name."""
    vertices, faces, rest, shade = [], [], [], []
    count = 0
    for number, name in enumerate(thing.geoms):
        geom = model.geom(name)
        shape = SHAPES[mujoco.mjtGeom(int(geom.type[0]))]
        size = tuple(float(length) for length in geom.size[: FINE[shape]])
        points, triangles = shapes.mesh(shape, size, max(detail - thing.coarser, 0))
        vertices.append(poses[name].apply(points))
        faces.append(triangles + count)
        rest.append(points)
        shade.append(np.full(len(points), thing.shades[number] if thing.shades else 1.0))
        count += len(points)
    track = poses[thing.geoms[0]] if len(thing.geoms) == 1 else None
    return Surface(
        np.concatenate(vertices, axis=1), np.concatenate(faces), np.concatenate(rest), np.concatenate(shade), track
    )


def of_flex(model: mujoco.MjModel, thing: Thing, vertices: np.ndarray, detail: int) -> Surface:
    """The surface of a thing that is a flex; vertices: float64 [T, V, 3] of all its nodes."""
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, thing.flex)
    if model.flex_dim[number] == 2:
        first, count, elements = model.flex_elemdataadr[number], model.flex_elemnum[number], model.flex_elem
    else:
        first, count, elements = model.flex_shelldataadr[number], model.flex_shellnum[number], model.flex_shell
    # Nodes inside a solid are not drawn.
    seen, corners = np.unique(elements[first : first + 3 * count], return_inverse=True)
    faces: np.ndarray = corners.reshape(-1, 3)
    rest = (vertices[0] if thing.rest is None else thing.rest)[seen]
    vertices = vertices[:, seen]
    for _ in range(max(thing.smooth + detail - USUAL_DETAIL, 0)):
        finer = Subdivision(faces, len(rest))
        vertices, rest, faces = finer.refine(vertices), finer.refine(rest), finer.faces
    return Surface(vertices, faces, rest, np.ones(len(rest)))
