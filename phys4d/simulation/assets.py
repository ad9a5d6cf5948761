"""Meshes of the user that take part in scenes: obj and glb files of a folder, with the licence that lies beside them.

A file's unit is the metre and its y axis points up, as glTF defines it; of obj files, which define neither, the same is
assumed. The mesh is turned to z up. Collisions use its convex hull, picture and truth all its faces.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.engine.errors import UserError

KINDS = (".obj", ".glb")
LICENCE = re.compile(r"(licen[cs]e|copying)([._-].*)?", re.IGNORECASE)
LICENCE_LENGTH = 100  # characters of a licence's first line that are recorded
MOST_FACES = 100_000
FLATTEST = 0.01  # least over largest side of the box around a mesh
HARD_EDGE = 0.6  # radians between faces from which the edge between them is drawn hard


@dataclass(frozen=True, eq=False)
class AssetMesh:
    """One mesh, centred, z up, in metres.

    name: words of its file's name, for captions.
    vertices, faces: float64 [V, 3] and int32 [F, 3]; vertices are split at hard edges. The origin is the centre of
        mass of a closed mesh, else that of its convex hull.
    hull, hull_faces: float64 [N, 3] and int32 [M, 3], the convex hull.
    planes: float64 [P, 4]: of a point x inside the hull, planes[:, :3] @ x + planes[:, 3] is negative everywhere.
    volume: m3 inside the faces of a closed mesh; None if it is not closed.
    inertia: float64 [3, 3], m5, tensor of inertia of a closed mesh over its density; of another one zeros.
    about: file, licence and scale, for a clip's json.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    hull: np.ndarray
    hull_faces: np.ndarray
    planes: np.ndarray
    volume: float | None
    inertia: np.ndarray
    about: dict[str, Any]

    @property
    def size(self) -> tuple[float, float, float]:
        """Half extents in metres of the smallest box that is centred at the origin and contains the mesh."""
        x, y, z = np.abs(self.vertices).max(axis=0)
        return float(x), float(y), float(z)

    @property
    def radius(self) -> float:
        """Metres, of the smallest ball around the origin that contains the mesh."""
        return float(np.linalg.norm(self.vertices, axis=1).max())

    def in_range(self, measure: float, low: float, high: float) -> "AssetMesh":
        """The mesh scaled so that a length of it is within a range; at scale 1 if it is there already.

        measure, low, high: metres.
        """
        scale = min(max(measure, low), high) / measure
        planes = self.planes * [1, 1, 1, scale]
        volume = None if self.volume is None else self.volume * scale**3
        return AssetMesh(
            self.name, self.vertices * scale, self.faces, self.hull * scale, self.hull_faces, planes, volume,
            self.inertia * scale**5, self.about | {"scale": scale},
        )  # fmt: skip

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Depth in metres of points [N, 3] below the hull's surface, float64 [N]; negative outside (a lower bound)."""
        return -(points @ self.planes[:, :3].T + self.planes[:, 3]).max(axis=1)


@dataclass(frozen=True, eq=False)
class Library:
    """The meshes of a folder by name, and a digest of all that clips depend on."""

    meshes: tuple[AssetMesh, ...]
    digest: str

    def names(self) -> list[dict[str, str]]:
        """Name, file, licence and digest of each mesh, for the json of clips."""
        kept = ("file", "licence", "licence_file", "sha256")
        return [{"name": mesh.name} | {key: mesh.about[key] for key in kept} for mesh in self.meshes]

    @property
    def bodies(self) -> tuple[AssetMesh, ...]:
        """The closed meshes, which can be rigid bodies: their volume and centre of mass are known."""
        return tuple(mesh for mesh in self.meshes if mesh.volume is not None)


@cache
def read_library(folder: Path, *, closed: bool = False) -> Library:
    """Reads all obj and glb files directly in a folder, in the order of their names; once in a process.

    closed: all meshes must be watertight, since they are to be rigid bodies only.

    Raises UserError if there is no such folder, no mesh or no licence file in it, two files have the same words as
    names, a mesh is unusable, or trimesh, an extra, is not installed.
    """
    if not folder.is_dir():
        raise UserError(f"--assets {folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    licences = [path for path in files if LICENCE.fullmatch(path.name)]
    if not licences:
        raise UserError(f"--assets {folder}: has no licence file: add the meshes' licence as {folder / 'LICENSE.txt'}")
    meshes = [path for path in files if path.suffix.lower() in KINDS]
    if not meshes:
        raise UserError(f"--assets {folder}: has no {' or '.join(KINDS)} file")
    digest, contents = hashlib.sha256(), {}
    for path in (*licences, *meshes):
        try:
            contents[path] = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        digest.update(f"{path.name}\0{len(contents[path])}\0".encode(errors="surrogateescape") + contents[path])
    lines = contents[licences[0]].decode(errors="replace").splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    if not first:
        raise UserError(f"{licences[0]}: is empty: write the meshes' licence into it")
    named: dict[str, Path] = {}
    found = []
    for path in meshes:
        name = _words(path)
        if name in named:
            raise UserError(f"{path}: has the name {name!r} in captions, as {named[name].name} has: rename one of them")
        named[name] = path
        about = {
            "file": path.name, "licence": first[:LICENCE_LENGTH], "licence_file": licences[0].name,
            "sha256": hashlib.sha256(contents[path]).hexdigest(),
        }  # fmt: skip
        found.append(_read(path, name, about))
    for mesh in found:
        if closed and mesh.volume is None:
            path = folder / mesh.about["file"]
            raise UserError(f"{path}: is not watertight, as a rigid body must be: mend it, or use --clutter half")
    return Library(tuple(found), digest.hexdigest())


def _words(path: Path) -> str:
    """A file's name as words in small letters, without digits."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.stem).lower())
    if not words:
        raise UserError(f"{path}: its name has no word for captions: rename it to what it shows, such as mug.obj")
    return " ".join(words)


def _read(path: Path, name: str, about: dict[str, Any]) -> AssetMesh:
    try:
        import trimesh
    except ImportError as error:
        raise UserError(f'--assets: meshes are read by trimesh ({error}): pip install "phys4d[assets]"') from error
    try:
        mesh = trimesh.load_scene(path, process=False, skip_materials=True).to_mesh()
    except Exception as error:  # its readers raise all kinds
        raise UserError(f"{path}: cannot be read as a mesh: {type(error).__name__}: {error}") from error
    if not len(mesh.faces):
        raise UserError(f"{path}: has no faces")
    if len(mesh.faces) > MOST_FACES:
        raise UserError(f"{path}: has {len(mesh.faces)} faces, of at most {MOST_FACES}: simplify it")
    if not np.isfinite(mesh.vertices).all():
        raise UserError(f"{path}: has vertices that are not finite")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces(height=0))
    side = np.ptp(mesh.vertices[mesh.faces.ravel()], axis=0) if len(mesh.faces) else np.zeros(3)
    if side.min() < FLATTEST * side.max() or not side.max():
        raise UserError(f"{path}: is flat: its sides are {', '.join(f'{each:.3g}' for each in side)} m")
    mesh.vertices = mesh.vertices[:, [0, 2, 1]] * [1, -1, 1]  # y up to z up
    hull = mesh.convex_hull
    closed = bool(mesh.is_watertight and mesh.is_winding_consistent)
    if closed and mesh.volume < 0:
        mesh.invert()
    middle = mesh.center_mass if closed else hull.center_mass
    mesh.vertices, hull.vertices = mesh.vertices - middle, hull.vertices - middle
    drawn = trimesh.graph.smooth_shade(mesh, angle=HARD_EDGE)
    normals = hull.face_normals
    planes = np.column_stack([normals, -(normals * hull.triangles[:, 0]).sum(axis=1)])
    return AssetMesh(
        name, np.array(drawn.vertices, np.float64), np.array(drawn.faces, np.int32),
        np.array(hull.vertices, np.float64), np.array(hull.faces, np.int32), planes,
        float(mesh.volume) if closed else None,
        np.array(mesh.moment_inertia) if closed else np.zeros((3, 3)), about | {"scale": 1.0},
    )  # fmt: skip
