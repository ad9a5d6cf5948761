"""Looks: all patterns differ, pictures are byte-identical in every run, and distant shadows are soft."""

from dataclasses import replace

import numpy as np
import pytest

from phys4d.simulation import shapes
from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.clip import measure, render
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence, Texture
from phys4d.simulation.particles.beads import beads
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.rendering import changed_tiles
from phys4d.simulation.rendering.drawing import _closed
from phys4d.simulation.rendering.lamps import GAIN, emitted, lamps_of
from phys4d.simulation.rendering.patterns import PATTERNS
from phys4d.simulation.rendering.raster import LoadedMeshes, Rasteriser
from phys4d.simulation.scene import FIRST_BODY, FLOOR, Light
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.scenery.looks import varied

LIGHT = Light((0.3, 0.5, -1), (0, 0, 0), 0.8, 0.4)
SQUARE = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])


def floor(texture: Texture, lid: float = 0.0) -> MeshSequence:
    """A square floor, and a smaller square `lid` metres above it if that is not zero."""
    parts = [SQUARE] if not lid else [SQUARE, 0.25 * SQUARE + np.array([0, 0, lid])]
    vertices = np.concatenate(parts)
    faces = np.concatenate([np.array([[0, 1, 2], [0, 2, 3]]) + 4 * i for i in range(len(parts))])
    return MeshSequence(
        vertices=vertices[None],
        faces=faces.astype(np.int32),
        instance=np.repeat([FLOOR, FIRST_BODY][: len(parts)], 2).astype(np.uint8),  # a room casts no shadows
        rest=vertices,
        colour=np.full((len(vertices), 3), 0.6, dtype=np.float32),
        texture=np.full(len(vertices), texture, dtype=np.uint8),
    )


def picture(meshes: MeshSequence, light: Light, size: int = 64) -> np.ndarray:
    camera = Camera.static(1, size, size, eye=np.array([0, -0.02, 2.0]), target=np.zeros(3), fov=45)
    return render(meshes, camera, light, Rasteriser(size, size))[0]


def test_every_pattern_is_one_of_its_own_and_repeats() -> None:
    assert set(PATTERNS) == set(Texture)
    raster = Rasteriser(64, 64)
    camera = Camera.static(1, 64, 64, eye=np.array([0, -0.02, 2.0]), target=np.zeros(3), fov=45)
    seen = {texture: render(floor(texture), camera, LIGHT, raster) for texture in Texture}
    for texture in Texture:
        assert np.array_equal(seen[texture], picture(floor(texture), LIGHT)[None])
        assert seen[texture].std(axis=(0, 1, 2)).max() > (0.5 if texture != Texture.PLAIN else -1)
        for other in Texture:
            difference = np.abs(seen[texture].astype(float) - seen[other]).mean()
            assert texture == other or difference > 1


@pytest.mark.parametrize("lid", [0.05, 0.4])
def test_shadows_are_the_softer_the_further_off_what_casts_them(lid: float) -> None:
    """The width of the edge in pixels: how far the brightness along a row is from a step."""

    def edge(softness: float, height: float) -> int:
        light = Light((0.9, 0.0, -1), (0, 0, 0), 0.8, 0.4, softness=softness)
        row = picture(floor(Texture.PLAIN, height), light, 128)[64, :, 0].astype(float)
        dark, bright = row.min(), row[4:12].mean()
        return int(((row > dark + 0.1 * (bright - dark)) & (row < bright - 0.1 * (bright - dark))).sum())

    assert edge(0.0, lid) <= 6
    if lid > 0.1:
        assert edge(0.3, lid) > edge(0.3, 0.05) + 3


def test_varied_scenes_differ_in_the_room_and_light_alone() -> None:
    scene = sample_scene(SimulateConfig(families=("ramp",), looks="plain"), 0).scene
    rooms = [varied(scene, keyed_rng(1, number)) for number in range(30)]
    assert len({(other.room.floor_texture, other.room.wall_texture) for other in rooms}) > 10
    for other in rooms:
        assert other.bodies == scene.bodies and other.view == scene.view and other.room.depth == scene.room.depth
        assert [(prop.size, prop.position) for prop in other.props] == [(p.size, p.position) for p in scene.props]
        assert min(*other.room.floor, *other.room.wall) >= 0 and max(*other.room.floor, *other.room.wall) <= 1
        assert other.light.direction == scene.light.direction and other.light.softness > 0


def resting_last(meshes: MeshSequence) -> MeshSequence:
    """The clip with its third frame twice instead of the fourth, and its last twice instead of the one before it."""
    order = [0, 1, 2, 2, 4, 5, 6, 8, 8]
    colour = meshes.colour[order] if meshes.colour.ndim == 3 else meshes.colour
    return replace(meshes, vertices=meshes.vertices[order], colour=colour)


@pytest.mark.parametrize("family", ["fall", "topple", "hot_bar", "glowing_pendulum", "shower"])
def test_what_a_static_camera_does_not_draw_again_is_the_same_to_the_bit(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sample_scene(SimulateConfig(families=(family,), frames=9, seed=3), 0)
    meshes = resting_last(found.meshes)
    height, width = 68, 100  # no whole number of tiles
    camera = found.scene.view.camera(9, height, width, 24)
    drawn: list[float] = []
    draw = LoadedMeshes._draw
    monkeypatch.setattr(LoadedMeshes, "_draw", lambda *at: drawn.append(at[-1].mean()) or draw(*at))
    small = render(meshes, camera, found.scene.light, Rasteriser(height, width))
    assert drawn == [1.0] * 9  # a small picture is drawn whole
    drawn.clear()
    monkeypatch.setattr(changed_tiles, "SMALL", 0)
    reused = render(meshes, camera, found.scene.light, Rasteriser(height, width))
    assert np.array_equal(reused, small)
    if lamps_of(meshes) is None:
        assert drawn[0] == 1 and drawn[8] == 0 and 0 < sum(drawn[1:8]) < 0.8 * 7
    else:  # light that changes reaches every tile
        assert family in ("hot_bar", "glowing_pendulum") and drawn == [1, 1, 1, 0, 1, 1, 1, 1, 0]
    monkeypatch.setattr(Camera, "is_static", lambda camera: False)
    assert np.array_equal(reused, render(meshes, camera, found.scene.light, Rasteriser(height, width)))


def test_a_hot_ball_lights_the_floor_by_inverse_square() -> None:
    """Of its light only, without sun and sky, on a white floor: brightness times the square of the distance, over the
    cosine, is the same everywhere beyond the ball, and in no place is there a shadow.
    """
    scene = sample_scene(SimulateConfig(families=("fall",), seed=3, looks="plain"), 0).scene
    scene = replace(scene, props=(), room=replace(scene.room, floor=(1.0, 1.0, 1.0), floor_texture=Texture.PLAIN))
    rest, faces = shapes.mesh("ball", (0.1,), 3)
    middle, rgb = np.array([0.0, 0.0, 0.4]), (0.8, 0.4, 0.1)
    ball = InstanceMesh(rest + middle, faces, rest, FIRST_BODY, rgb, Texture.GLOW)
    meshes = assemble(scene, [ball], 1, 2)
    camera = Camera.static(1, 96, 96, eye=np.array([0.0, -1.6, 1.2]), target=np.zeros(3), fov=60)
    dark = replace(scene.light, strength=0.0, ambient=0.0, fill_colour=(0, 0, 0), bounce=(0, 0, 0), softness=0.0)
    picture = render(meshes, camera, dark, Rasteriser(96, 96))[0] / 255
    truth = measure(meshes, camera)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(truth.instance[0], 2), (5, 5))
    row, column = np.nonzero((near == FLOOR).all(axis=(2, 3)) & (picture[..., 0] > 0.08) & (picture[..., 0] < 0.9))
    place = camera.origin(0) + truth.depth[0, row, column, None] * camera.directions(
        0, np.stack([column + 0.5, row + 0.5], axis=1)
    )
    way = middle - place
    square = (way**2).sum(axis=1)
    light = picture[row, column, 0] ** 1.2 * square / (way[:, 2] / np.sqrt(square))
    assert len(row) > 200
    wanted = GAIN * emitted(np.array(rgb))[0] * 0.1**2
    assert np.abs(np.median(light) / wanted - 1) < 0.03 and np.percentile(np.abs(light / wanted - 1), 99) < 0.12
    assert lamps_of(replace(meshes, texture=np.full_like(meshes.texture, Texture.PLAIN))) is None


def test_the_far_side_of_small_balls_is_left_out_of_the_picture() -> None:
    """What it changes: samples on outlines, where two faces are equally near."""
    rng, frames = np.random.default_rng(1), 2
    centres = rng.uniform([-0.3, -0.3, 0.05], [0.3, 0.3, 0.5], (60, 3)) + np.arange(frames)[:, None, None] * 0.01
    room = sample_scene(SimulateConfig(families=("fall",), seed=3), 0).scene
    balls = beads(centres, 0.12, np.full((60, 3), 0.6), FIRST_BODY, Texture.WATER, detail=4)
    meshes = assemble(room, [balls], frames, 2)
    camera = Camera.static(frames, 96, 96, eye=np.array([0.3, -1.4, 0.8]), target=np.array([0, 0, 0.2]), fov=45)
    drawn = render(meshes, camera, room.light, Rasteriser(96, 96)).astype(int)
    both = render(replace(meshes, turns=None), camera, room.light, Rasteriser(96, 96)).astype(int)
    assert (np.abs(drawn - both).max(axis=3) > 3).mean() < 2e-3
    assert _closed(meshes).sum() == 60 * 80
    bare = render(replace(meshes, faces=meshes.faces[~_closed(meshes)], instance=meshes.instance[~_closed(meshes)]),
                  camera, room.light, Rasteriser(96, 96)).astype(int)  # fmt: skip
    assert (np.abs(drawn - bare).max(axis=3) > 3).mean() > 0.1
