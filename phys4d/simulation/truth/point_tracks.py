"""Long tracks of surface points: material points of faces over all frames, and whether the camera sees them."""

import math

import numpy as np

from phys4d.simulation.clip import Truth
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.surface import Surface, SurfaceFinder, projected
from phys4d.simulation.truth.visibility import visible

FIRST, LATER = 512, 256  # most points that are chosen in the first frame, and in all others
GRID = 64  # places along each axis of the image at which points are chosen


def point_tracks(meshes: MeshSequence, camera: Camera, truth: Truth) -> dict[str, np.ndarray]:
    """Tracks of points chosen in the first frame, and in each later frame of points that no frame before it shows.

    Points lie at pixel centres of a grid of at most GRID x GRID. Half of those of the first frame, if there are as
    many, are on what moves; each thing has a share by what is seen of it. A point is a fixed place on a face of the
    meshes, of whatever they are made: rigid, cloth, rope, grain or liquid. It is visible in a frame if it is inside the
    image, no face is nearer (`visibility`), and smoke is clear before it.

    meshes, camera, truth: of the clip.

    Returns arrays as `engine.data.clip.extras.EXTRAS` defines them, N points: `track_point` float32 [T, N, 3],
    `track_pixel` float32 [T, N, 2], `track_visible` bool [T, N], `track_start` int32 [N], `track_instance` uint8 [N].
    """
    finder = SurfaceFinder(meshes, camera)
    start, points = _candidates(finder, truth)
    frames, count = meshes.frames, len(start)
    pixel, seen = np.zeros((frames, count, 2), np.float32), np.zeros((frames, count), dtype=bool)
    position = np.zeros((frames, count, 3), np.float32)
    for t in range(frames):
        place = points.points(meshes.vertices[t], meshes.faces)
        at, depth = projected(place, camera, t)
        position[t], pixel[t] = place, np.where(depth[:, None] > 0, at, 0)
        seen[t] = visible(at, depth, finder, t)
        inside = np.nonzero(seen[t])[0]
        column, row = np.minimum(at[inside].astype(int), [camera.width - 1, camera.height - 1]).T
        seen[t, inside] = truth.depth_valid[t, row, column]
    new = np.nonzero(seen[start, np.arange(count)] & (seen.argmax(axis=0) == start))[0]
    moves = (np.abs(position[:, new] - position[0, new]) > 0).any(axis=(0, 2))
    chosen = np.concatenate([_of_first(new, start[new] == 0, moves), _spread(new[start[new] > 0], LATER)])
    return {
        "track_point": position[:, chosen],
        "track_pixel": pixel[:, chosen],
        "track_visible": seen[:, chosen],
        "track_start": start[chosen].astype(np.int32),
        "track_instance": meshes.instance[points.face[chosen]],
    }


def _candidates(finder: SurfaceFinder, truth: Truth) -> tuple[np.ndarray, Surface]:
    """Frames [N] and points, in the order of frames and within one of instances: of the first frame all of the grid, of
    each other those that the frame before does not show.
    """
    camera, meshes = finder.camera, finder.meshes
    step = math.ceil(max(camera.height, camera.width) / GRID)
    wanted = np.zeros((camera.height, camera.width), dtype=bool)
    wanted[step // 2 :: step, step // 2 :: step] = True
    start, found = [], []
    for t in range(meshes.frames):
        some = _shown(finder, t, wanted & truth.depth_valid[t])
        if t:
            pixel, depth = projected(some.points(meshes.vertices[t - 1], meshes.faces), camera, t - 1)
            some = _some(some, ~visible(pixel, depth, finder, t - 1))
        start.append(np.full(len(some.face), t))
        found.append(some)
    frame, every = np.concatenate(start), _joined(found)
    order = np.lexsort((every.column, every.row, meshes.instance[every.face], frame))
    return frame[order], _some(every, order)


def _shown(finder: SurfaceFinder, t: int, wanted: np.ndarray) -> Surface:
    """The surface points of frame t at the pixels that are true in `wanted`, bool [H, W]."""
    moving, free = finder.surface(t), wanted.copy()
    free[moving.row, moving.column] = False
    still = _some(finder.still, free[finder.still.row, finder.still.column])
    return _joined([still, _some(moving, wanted[moving.row, moving.column])])


def _joined(parts: list[Surface]) -> Surface:
    return Surface(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _some(seen: Surface, which: np.ndarray) -> Surface:
    return Surface(*(array[which] for array in vars(seen).values()))


def _of_first(numbers: np.ndarray, first: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Numbers of the points of the first frame, half of them moving where there are as many."""
    moving, resting = numbers[first & moves], numbers[first & ~moves]
    room = max(FIRST // 2, FIRST - len(resting))
    some = _spread(moving, room)
    return np.sort(np.concatenate([some, _spread(resting, FIRST - len(some))]))


def _spread(numbers: np.ndarray, most: int) -> np.ndarray:
    """At most so many of these numbers, at equal distances in their order."""
    if len(numbers) <= most:
        return numbers
    return numbers[(2 * np.arange(most) + 1) * len(numbers) // (2 * most)]
