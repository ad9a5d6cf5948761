"""Headless OpenGL (EGL): renders the images of a video."""

from typing import Any

import moderngl
import numpy as np

from phys4d.engine.errors import UserError
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.rendering import shaders
from phys4d.simulation.rendering.changed_tiles import TILE, ChangedTiles
from phys4d.simulation.rendering.drawing import Drawing, set_uniform
from phys4d.simulation.rendering.lamps import lamps_of
from phys4d.simulation.scene import Light
from phys4d.simulation.scenery.camera import Camera

NEAR, FAR = 0.05, 30.0
BACKGROUND = (0.62, 0.70, 0.80)
INSTALL = "apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri"


def create_context() -> moderngl.Context:
    """A headless OpenGL 3.3 context. Raises UserError with the packages to install if there is none."""
    problem: Exception | None = None
    # By default moderngl searches the unversioned library names, which only development packages install.
    egl: dict[str, Any] = {"backend": "egl"}
    choices = [egl | {"libgl": "libGL.so.1", "libegl": "libEGL.so.1"}, egl]
    for names in choices:
        try:
            return moderngl.create_context(require=330, standalone=True, **names)
        except Exception as error:  # moderngl raises bare Exception
            problem = problem or error
    raise UserError(f"simulate: no OpenGL through EGL on this machine ({problem}): {INSTALL}")


class Rasteriser:
    """Renders mesh sequences at one image size; holds an OpenGL context, so one per process is enough.

    height, width: image size, pixels.
    samples: samples per pixel of the driver's multisampling.
    supersample: the image is rendered this many times larger along each axis and averaged.
    """

    def __init__(self, height: int, width: int, *, samples: int = 4, supersample: int = 2) -> None:
        self.height, self.width, self.supersample = height, width, supersample
        self.context = create_context()
        self.context.enable(moderngl.DEPTH_TEST)
        program = self.context.program
        self._surfaces: dict[tuple[Texture, bool, int], moderngl.Program] = {}
        self._cast = program(vertex_shader=shaders.POSITION_VERTEX, fragment_shader=shaders.NOTHING_FRAGMENT)
        self._cover = program(vertex_shader=shaders.POSITION_VERTEX, fragment_shader=shaders.NOTHING_FRAGMENT)
        set_uniform(self._cover, "to_clip", np.eye(4))
        self._make_targets(samples)

    def _make_targets(self, samples: int) -> None:
        context, small = self.context, (self.width, self.height)
        large = (self.width * self.supersample, self.height * self.supersample)
        colour = context.renderbuffer(large, 4, samples=samples)
        self._colour_target = context.framebuffer([colour], context.depth_renderbuffer(large, samples=samples))
        self._resolved = context.framebuffer([context.renderbuffer(large, 4)])
        self._shadow_size = min(2 ** (4 * max(small)).bit_length(), 2048)
        shadow = context.depth_texture((self._shadow_size, self._shadow_size))
        shadow.compare_func = "<="
        self._shadow_map, self._shadow_target = shadow, context.framebuffer(depth_attachment=shadow)
        # The shadow map is bound twice: unit 0 compares it with a depth, unit 1 reads the depth.
        nearest = (moderngl.NEAREST, moderngl.NEAREST)
        self._depth_sampler = context.sampler(repeat_x=False, repeat_y=False, filter=nearest, compare_func="")

    def surface_program(self, texture: Texture, *, soft: bool, lamps: int) -> moderngl.Program:
        """The shader program of this pattern, compiled on first use.

        texture: the pattern.
        soft: soft shadows.
        lamps: number of glowing parts that light the surfaces.
        """
        if (texture, soft, lamps) not in self._surfaces:
            fragment = shaders.surface_fragment(texture, soft=soft, lamps=lamps)
            program = self.context.program(vertex_shader=shaders.SURFACE_VERTEX, fragment_shader=fragment)
            _set_unit(program, "shadow_map", 0)
            if soft:
                _set_unit(program, "shadow_depth", 1)
            self._surfaces[texture, soft, lamps] = program
        return self._surfaces[texture, soft, lamps]

    def load(self, meshes: MeshSequence) -> "LoadedMeshes":
        """Uploads a sequence to the device; used as a context manager, it frees the buffers at the end."""
        return LoadedMeshes(self, meshes)


class LoadedMeshes:
    """A mesh sequence in device buffers, ready to be drawn frame by frame."""

    def __init__(self, raster: Rasteriser, meshes: MeshSequence) -> None:
        self.raster, self.meshes = raster, meshes
        make = raster.context.buffer
        self._position, self._normal, self._colour = (make(reserve=meshes.vertices.shape[1] * 12) for _ in range(3))
        self._rest = make(meshes.rest.astype(np.float32).tobytes())
        if meshes.colour.ndim == 2:
            self._colour.write(meshes.colour.tobytes())

    def __enter__(self) -> "LoadedMeshes":
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in (self._position, self._normal, self._colour, self._rest):
            buffer.release()

    def _move_to(self, t: int) -> None:
        """Uploads positions, normals and colours of frame t."""
        self._position.write(self.meshes.vertices[t].astype(np.float32).tobytes())
        self._normal.write(self.meshes.normals(t).tobytes())
        if self.meshes.colour.ndim == 3:
            self._colour.write(self.meshes.colour[t].tobytes())

    def pictures(self, camera: Camera, light: Light) -> np.ndarray:
        """Renders the video, uint8 [T, H, W, 3].

        With a static camera only the tiles of a frame are drawn that differ from the frame before.
        """
        sun = -np.array(light.direction) / np.linalg.norm(light.direction)
        lamps = lamps_of(self.meshes)
        changed = ChangedTiles(self.meshes, camera, light, self.raster._shadow_size, lamps)
        video = np.empty((self.meshes.frames, camera.height, camera.width, 3), dtype=np.uint8)
        with Drawing(self, light, sun, lamps) as drawing:
            for t in range(self.meshes.frames):
                video[t] = video[max(t - 1, 0)]
                self._draw(video[t], t, camera, drawing, changed.tiles(t))
        return video

    def _draw(self, picture: np.ndarray, t: int, camera: Camera, drawing: Drawing, tiles: np.ndarray) -> None:
        """Draws the tiles of frame t that are true in `tiles`, bool [rows, columns], into uint8 [H, W, 3]."""
        if not tiles.any():
            return
        raster, scale = self.raster, self.raster.supersample
        row, column = np.nonzero(tiles)
        top, bottom, left, right = int(row.min()), int(row.max()) + 1, int(column.min()), int(column.max()) + 1
        box = _pixels(top, bottom, camera.height), _pixels(left, right, camera.width)
        rows, columns = (side.stop - side.start for side in box)
        viewport = (scale * box[1].start, scale * box[0].start, scale * columns, scale * rows)
        self._move_to(t)
        raster._shadow_target.use()
        raster._shadow_target.clear(depth=1.0)
        drawing.cast()
        raster._colour_target.scissor = viewport
        raster._colour_target.use()
        raster._colour_target.clear(*BACKGROUND, 1.0, depth=1.0)
        self._cover_others(camera, tiles)
        raster._shadow_map.use(0)
        raster._shadow_map.use(1)
        raster._depth_sampler.use(1)
        drawing.draw(_to_clip(camera, t), camera.origin(t), t)
        raster.context.copy_framebuffer(raster._resolved, raster._colour_target)
        raw = np.frombuffer(raster._resolved.read(viewport=viewport, components=3, alignment=1), np.uint8)
        drawn = _averaged(raw.reshape(rows, scale, columns, scale, 3))
        shown = tiles[top:bottom, left:right].repeat(TILE, axis=0).repeat(TILE, axis=1)
        np.copyto(picture[box], drawn, where=shown[: drawn.shape[0], : drawn.shape[1], None])

    def _cover_others(self, camera: Camera, tiles: np.ndarray) -> None:
        """Holds the near plane in front of the tiles that are not drawn, so that nothing is shaded there."""
        step = np.diff(np.pad(~tiles, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        (row, start), (_, end) = np.nonzero(step == 1), np.nonzero(step == -1)
        if not len(row):
            return
        x0, x1 = (np.minimum(TILE * each, camera.width) * 2 / camera.width - 1 for each in (start, end))
        y0, y1 = (np.minimum(TILE * each, camera.height) * 2 / camera.height - 1 for each in (row, row + 1))
        triangles = ((x0, y0), (x1, y0), (x1, y1), (x0, y0), (x1, y1), (x0, y1))
        corners = [np.stack([x, y, np.full(len(row), -1.0)], axis=1) for x, y in triangles]
        buffer = self.raster.context.buffer(np.stack(corners, axis=1).astype(np.float32).tobytes())
        array = self.raster.context.vertex_array(self.raster._cover, [(buffer, "3f", "position")])
        array.render()
        array.release()
        buffer.release()


def _pixels(first: int, end: int, size: int) -> slice:
    return slice(first * TILE, min(end * TILE, size))


def _set_unit(program: moderngl.Program, name: str, unit: int) -> None:
    """Sets the texture unit that a sampler reads."""
    uniform = program[name]
    assert isinstance(uniform, moderngl.Uniform)
    uniform.value = unit


def _averaged(fine: np.ndarray) -> np.ndarray:
    """Mean over the second and fourth axis of uint8 [H, s, W, s, 3] (six times faster than numpy's sum)."""
    scale = fine.shape[1]
    total = np.zeros(fine.shape[::2], dtype=np.uint16)
    for i in range(scale):
        for j in range(scale):
            total += fine[:, i, :, j]
    return (total // scale**2).astype(np.uint8)


def _to_clip(camera: Camera, t: int) -> np.ndarray:
    """World to clip space, [4, 4]; image row 0 is window row 0, so that no flip is needed after reading back."""
    k, h, w = camera.intrinsics[t], camera.height, camera.width
    clip = np.zeros((4, 4))
    clip[0] = [2 * k[0, 0] / w, 0, 2 * k[0, 2] / w - 1, 0]
    clip[1] = [0, 2 * k[1, 1] / h, 2 * k[1, 2] / h - 1, 0]
    clip[2] = [0, 0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)]
    clip[3, 2] = 1
    return clip @ camera.world_to_camera(t)
