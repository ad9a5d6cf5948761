"""Furniture and other things of every day that stand around an event: fixed, solid, and named in the caption.

Each is made of boxes, cylinders, balls and capsules, which every simulator knows as obstacles, or a mesh of the user.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from phys4d.simulation.assets import AssetMesh
from phys4d.simulation.body import Body, Colour, Prop, Shape, Thing
from phys4d.simulation.caption import WORDS, caption, words
from phys4d.simulation.mesh_sequence import MeshSequence, rotation
from phys4d.simulation.particles.obstacles import Solid
from phys4d.simulation.scene import WALL, Scene, Unusable
from phys4d.simulation.scenery.materials import HUES, MATERIALS, muted, saturated

Part = tuple[Shape, tuple[float, ...], tuple[float, float, float]]  # shape, size, centre above the foot's middle

MOST = 3  # things in a scene
EACH = 8  # words of a thing
OFF = 0.75  # metres, level, from the middle of the scene to the edge of a thing: room for the event
BEHIND = 0.2  # metres by which it is farther from the camera than the middle of the scene, along the optical axis
WALL_GAP, GAP = 0.05, 0.1  # metres to the walls, and to everything else
PLACES = 150  # tried for one thing
ASSET_SIDE = (0.3, 1.0)  # range in metres of the longest side of the box around a mesh of the user
ASSETS = 0.5  # share of the things that are meshes of the user, if there are any
SHOWN = 0.6  # of its height and width that the first frame shows
MIDDLE = 0.15  # of the image's width, off its middle, up to which a thing stands in the middle


def _legs(shape: Shape, half: float, across: float, deep: float, height: float) -> list[Part]:
    size = (half, height / 2) if shape == "cylinder" else (half, half, height / 2)
    return [(shape, size, (x * across, y * deep, height / 2)) for x in (-1, 1) for y in (-1, 1)]


def _stool(scale: float) -> list[Part]:
    height = 0.42 * scale
    seat: Part = ("cylinder", (0.15, 0.016), (0, 0, height + 0.016))
    return [seat, *_legs("cylinder", 0.013, 0.085, 0.085, height)]


def _table(scale: float) -> list[Part]:
    height = 0.4 * scale
    return [("box", (0.28, 0.18, 0.014), (0, 0, height + 0.014)), *_legs("box", 0.016, 0.25, 0.15, height)]


def _shelf(scale: float) -> list[Part]:
    high, wide, deep, thick = 0.75 * scale, 0.22, 0.1, 0.012
    sides: list[Part] = [("box", (thick, deep, high / 2), (x * (wide + thick), 0, high / 2)) for x in (-1, 1)]
    return sides + [("box", (wide, deep, thick), (0, 0, thick + share * (high - 2 * thick))) for share in (0, 0.5, 1)]


def _bench(scale: float) -> list[Part]:
    height = 0.26 * scale
    legs: list[Part] = [("box", (0.014, 0.1, height / 2), (x * 0.26, 0, height / 2)) for x in (-1, 1)]
    return [("box", (0.32, 0.11, 0.015), (0, 0, height + 0.015)), *legs]


def _lamp(scale: float) -> list[Part]:
    pole = 0.8 * scale
    return [
        ("cylinder", (0.11, 0.012), (0, 0, 0.012)), ("cylinder", (0.012, pole / 2), (0, 0, 0.024 + pole / 2)),
        ("ball", (0.09,), (0, 0, 0.08 + pole)),
    ]  # fmt: skip


def _barrel(scale: float) -> list[Part]:
    half = 0.19 * scale
    hoops: list[Part] = [("cylinder", (0.145, 0.012), (0, 0, half + z * 0.6 * half)) for z in (-1, 1)]
    return [("cylinder", (0.138, half), (0, 0, half)), *hoops]


def _vase(scale: float) -> list[Part]:
    belly = 0.11 * scale
    return [
        ("cylinder", (0.055, 0.012), (0, 0, 0.012)), ("ball", (belly,), (0, 0, 0.016 + belly)),
        ("cylinder", (0.035, 0.07 * scale), (0, 0, 0.016 + 2 * belly + 0.04 * scale)),
        ("cylinder", (0.055, 0.01), (0, 0, 0.016 + 2 * belly + 0.11 * scale)),
    ]  # fmt: skip


def _ladder(scale: float) -> list[Part]:
    high = 0.9 * scale
    rails: list[Part] = [("box", (0.014, 0.014, high / 2), (x * 0.15, 0, high / 2)) for x in (-1, 1)]
    return rails + [("box", (0.15, 0.01, 0.01), (0, 0, high * (i + 0.5) / 5)) for i in range(5)]


KINDS = {
    "stool": _stool, "table": _table, "shelf": _shelf, "bench": _bench, "lamp": _lamp, "barrel": _barrel,
    "vase": _vase, "ladder": _ladder,
}  # fmt: skip


def with_clutter(scene: Scene, rng: np.random.Generator, assets: Sequence[AssetMesh] = ()) -> Scene:
    """The scene with up to MOST things behind the event or beside it, where the first frame shows them; with fewer if
    its caption would have more than WORDS words.

    scene: with its later events. rng: random generator of the things. assets: meshes of the user, half of the things.
    """
    for _ in range(int(rng.integers(1, MOST + 1))):
        kind, asset = str(rng.choice(list(KINDS))), None
        if assets and rng.uniform() < ASSETS:
            mesh = assets[int(rng.integers(len(assets)))]
            asset, kind = mesh.in_range(float(np.ptp(mesh.vertices, axis=0).max()), *ASSET_SIDE), mesh.name
        material, colour = str(rng.choice(list(MATERIALS))), str(rng.choice(list(HUES)))
        if words(caption(scene)) + EACH + kind.count(" ") > WORDS:
            break
        parts = KINDS[kind](rng.uniform(0.85, 1.2)) if asset is None else [_standing(asset)]
        rgb = saturated(colour, rng)
        # Duller than what moves, so that the event is what meets the eye.
        grey = muted(rng, 0.5, 0.7)
        red, green, blue = (0.6 * value + 0.4 * other for value, other in zip(rgb, grey, strict=True))
        props = _placed(scene, parts, f"{colour} {material} {kind}", material, (red, green, blue), rng, asset)
        if props:
            side = _side(scene, np.mean([prop.position for prop in props], axis=0))
            thing = Thing(f"{colour} {material} {kind}", side, len(props))
            scene = replace(scene.with_props(props), clutter=(*scene.clutter, thing))
    return scene


def check_clear(scene: Scene, meshes: MeshSequence) -> None:
    """Raises Unusable if something is inside a thing in the first frame; meshes: the simulated scene."""
    parts = sum(thing.props for thing in scene.clutter)
    if not parts:
        return
    last = int(meshes.instance.max())
    others = np.unique(meshes.faces[(meshes.instance > WALL) & (meshes.instance <= last - parts)])
    points = meshes.vertices[0, others]
    for prop in scene.props[-parts:]:
        if len(points) and Solid.of(prop).depth(points).max() > 0:
            raise Unusable("a thing stands in the way")


def _standing(asset: AssetMesh) -> Part:
    return "mesh", asset.size, (0.0, 0.0, -float(asset.vertices[:, 2].min()))


def _placed(
    scene: Scene, parts: Sequence[Part], name: str, material: str, rgb: Colour, rng: np.random.Generator,
    asset: AssetMesh | None,
) -> list[Prop]:  # fmt: skip
    """The parts as props at a free place; empty if none is found."""
    reach = max(np.hypot(*centre[:2]) + np.hypot(*_half(shape, size)[:2]) for shape, size, centre in parts)
    room, middle = scene.room, np.array([0.0, 0.05])
    low = np.array([-room.left, -room.front]) + reach + WALL_GAP
    high = np.array([room.right, room.depth]) - reach - WALL_GAP
    kind, friction = MATERIALS[material], float(rng.uniform(*MATERIALS[material].friction))
    for _ in range(PLACES):
        foot, turn = rng.uniform(low, high), rng.uniform(-np.pi, np.pi)
        if np.linalg.norm(foot - middle) < OFF + reach:
            continue
        quaternion = (float(np.cos(turn / 2)), 0.0, 0.0, float(np.sin(turn / 2)))
        turned = rotation(np.array(quaternion))
        props = []
        for shape, size, centre in parts:
            x, y, z = turned @ np.array(centre) + [*foot, 0.0]
            place = (float(x), float(y), float(z))
            props.append(Prop(name, shape, rgb, kind.texture, size, friction, place, quaternion, asset))
        if _is_behind_and_seen(scene, props) and _is_free(scene, props):
            return props
    return []


def _half(shape: Shape, size: tuple[float, ...]) -> tuple[float, float, float]:
    """Half extents along the axes of a shape's own frame."""
    if shape in ("box", "mesh"):
        return size[0], size[1], size[2]
    if shape == "ball":
        return size[0], size[0], size[0]
    return size[0], size[0], size[1] + (size[0] if shape == "capsule" else 0.0)


def _corners(prop: Prop) -> np.ndarray:
    """Corners [8, 3] of the box around a prop in its own frame, world metres."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
    return (signs * _half(prop.shape, prop.size)) @ rotation(np.array(prop.quaternion)).T + np.array(prop.position)


def _is_behind_and_seen(scene: Scene, props: Sequence[Prop]) -> bool:
    camera, target = scene.view.camera(1, 1, 1, 1.0), np.array([scene.view.target])
    pixel, depth = camera.project(0, np.concatenate([_corners(prop) for prop in props]))
    if depth.min() < camera.project(0, target)[1][0] + BEHIND:
        return False
    low, high = pixel.min(axis=0), pixel.max(axis=0)
    shown = np.minimum(high, 1) - np.maximum(low, 0)
    return bool((shown >= SHOWN * (high - low)).all())


def _is_free(scene: Scene, props: Sequence[Prop]) -> bool:
    """Whether the props are GAP away from the scene's other props and held bodies."""
    others: list[Body | Prop] = [*scene.props, *scene.later]
    points = np.concatenate([_corners(prop) for prop in props])
    middle, reach = points.mean(axis=0), float(np.linalg.norm(points - points.mean(axis=0), axis=1).max())
    for other in others:
        depth = Solid.of(other).depth(middle[None])[0]
        if -depth < reach + GAP:
            return False
    return True


def _side(scene: Scene, middle: np.ndarray) -> str:
    across = float(scene.view.camera(1, 1, 1, 1.0).project(0, middle[None])[0][0, 0]) - 0.5
    return "in the middle" if abs(across) < MIDDLE else "on the right" if across > 0 else "on the left"
