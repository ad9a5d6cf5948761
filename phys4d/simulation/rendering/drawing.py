"""The faces of loaded meshes in the light of a scene, drawn run by run of one pattern."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import moderngl
import numpy as np

from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.rendering.lamps import Lamps
from phys4d.simulation.rendering.shadow import SHADOW_DISTANCE, SHADOW_HALF_WIDTH, to_shadow
from phys4d.simulation.scene import WALL, Light

if TYPE_CHECKING:
    from phys4d.simulation.rendering.raster import LoadedMeshes


class Drawing:
    """The faces of loaded meshes in a light, as runs of one pattern; a context manager that frees its buffers.

    loaded: the meshes. light: of the scene. sun: [3], unit vector towards it. lamps: of what glows, None for none.
    """

    def __init__(self, loaded: "LoadedMeshes", light: Light, sun: np.ndarray, lamps: Lamps | None) -> None:
        raster, meshes = loaded.raster, loaded.meshes
        self._indices = raster.context.buffer(meshes.faces.tobytes())
        # A room's faces come first; walls and ceiling would shade everything inside.
        self._first_caster = int(np.argmax(np.append(meshes.instance > WALL, True)))
        to_clip = to_shadow(sun, np.array(light.focus))
        set_uniform(raster._cast, "to_clip", to_clip.T)
        self._surfaces: list[_Surface] = []
        self._lamps = lamps
        self._caster = raster.context.vertex_array(raster._cast, [(loaded._position, "3f", "position")], self._indices)
        kinds = 2 * meshes.texture[meshes.faces[:, 0]].astype(int) + _closed(meshes)
        for kind, first, count in _runs(kinds):
            texture, closed = Texture(kind // 2), bool(kind % 2)
            surface = _Surface(loaded, self._indices, texture, first, count, soft=light.softness > 0, closed=closed,
                               lamps=0 if lamps is None else lamps.count)  # fmt: skip
            _illuminate(surface.program, light, sun, to_clip, raster._shadow_size)
            self._surfaces.append(surface)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for surface in self._surfaces:
            surface.array.release()
        self._caster.release()
        self._indices.release()

    def cast(self) -> None:
        """Draws what casts shadows into the current target."""
        for surface in self._surfaces:
            first, end = max(surface.first, self._first_caster), surface.first + surface.count
            if end > first:
                with _faces_towards(self._caster.ctx, surface.closed):
                    self._caster.render(vertices=3 * (end - first), first=3 * first)

    def draw(self, to_clip: np.ndarray, eye: np.ndarray, t: int) -> None:
        """Draws all faces of frame t into the current target; to_clip: [4, 4], world to clip space. eye: [3], metres.
        """
        for surface in reversed(self._surfaces):  # the room, behind everything, last
            set_uniform(surface.program, "to_clip", to_clip.T)
            set_uniform(surface.program, "eye", eye)
            if self._lamps is not None:
                set_uniform(surface.program, "lamp_place", self._lamps.place[t])
                set_uniform(surface.program, "lamp_power", self._lamps.power[t])
                set_uniform(surface.program, "lamp_radius", self._lamps.radius[t])
            with _faces_towards(surface.program.ctx, surface.closed):
                surface.array.render(vertices=3 * surface.count, first=3 * surface.first)


class _Surface:
    """A run of faces with one pattern, bound to the program that draws the pattern."""

    def __init__(
        self, loaded: "LoadedMeshes", indices: moderngl.Buffer, texture: Texture, first: int, count: int, *, soft: bool,
        closed: bool, lamps: int,
    ) -> None:  # fmt: skip
        self.first, self.count, self.closed = first, count, closed
        self.program = loaded.raster.surface_program(texture, soft=soft, lamps=lamps)
        buffers = [
            (loaded._position, "3f", "position"), (loaded._normal, "3f", "normal"), (loaded._colour, "3f", "colour"),
        ]  # fmt: skip
        if "rest" in set(self.program):  # absent if the compiled pattern does not use rest coordinates
            buffers.append((loaded._rest, "3f", "rest"))
        self.array = loaded.raster.context.vertex_array(self.program, buffers, indices)


def _closed(meshes: MeshSequence) -> np.ndarray:
    """Bool [F], faces of small balls that only shift: of those that face away nothing is seen."""
    if meshes.turns is None:
        return np.zeros(len(meshes.faces), dtype=bool)
    moves = (meshes.vertices[-1] != meshes.vertices[0]).any(axis=1)
    return ~meshes.turns[meshes.faces[:, 0]] & moves[meshes.faces[:, 0]]


@contextmanager
def _faces_towards(context: moderngl.Context, closed: bool) -> Iterator[None]:
    """Leaves out faces of a closed mesh that face away from the camera."""
    if closed:
        context.front_face = "cw"  # as the image's rows run down
        context.enable(moderngl.CULL_FACE)
    yield
    if closed:
        context.disable(moderngl.CULL_FACE)


def _runs(kinds: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal numbers: (number, first, count)."""
    starts = np.flatnonzero(np.diff(kinds, prepend=-1))
    ends = np.append(starts[1:], len(kinds))
    return [(int(kinds[a]), int(a), int(b - a)) for a, b in zip(starts, ends, strict=True)]


def _illuminate(
    program: moderngl.Program, light: Light, sun: np.ndarray, to_clip: np.ndarray, shadow_size: int
) -> None:
    """Sets the uniforms of a program that do not change over a clip."""
    set_uniform(program, "to_shadow", to_clip.T)
    set_uniform(program, "shadow_texel", np.array(1 / shadow_size))
    set_uniform(program, "shadow_offset", np.array(3 * SHADOW_HALF_WIDTH / shadow_size))
    set_uniform(program, "sun", sun)
    set_uniform(program, "strengths", np.array([light.strength, light.ambient]))
    set_uniform(program, "sun_colour", np.array(light.sun))
    set_uniform(program, "sky_colour", np.array(light.sky))
    set_uniform(program, "fill", -np.array(light.fill) / np.linalg.norm(light.fill))
    set_uniform(program, "fill_colour", np.array(light.fill_colour))
    set_uniform(program, "ground_colour", np.array(light.bounce))
    if light.softness > 0:
        set_uniform(program, "softness", np.array(light.softness * SHADOW_DISTANCE / SHADOW_HALF_WIDTH))


def set_uniform(program: moderngl.Program, name: str, value: np.ndarray) -> None:
    """Sets a uniform; matrices are passed transposed, since OpenGL stores columns contiguously."""
    uniform = program[name]
    assert isinstance(uniform, moderngl.Uniform)
    uniform.write(value.astype(np.float32).tobytes())
