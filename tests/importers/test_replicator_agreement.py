"""Vectors that contradict masks or depth are detected; correct vectors are accepted for any motion of objects."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.importers.replicator.agreement import NO_EVIDENCE, WINDOW, WINDOW_STRIDE, evidence
from phys4d.importers.replicator.camera import View
from phys4d.importers.replicator.dataset import import_replicator
from phys4d.importers.replicator.motion import Frame, pixel_centres

SIZE, FRAMES, WALL = 48, 12, 5.0


class Shape(NamedTuple):
    """covers(t, x, y): where it is seen; before(t, x, y): where its points at a place were in the frame before."""

    covers: Callable[[int, np.ndarray, np.ndarray], np.ndarray]
    before: Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    depth: float = 3.0


def box(left: float, top: float, width: float, height: float, u: float, depth: float = 3.0, start: int = 0) -> Shape:
    """A box that slides to the right by u pixels a frame and is there from frame `start` on."""
    return Shape(
        lambda t, x, y: (t >= start) & (abs(x - left - u * t - width / 2) < width / 2)
        & (abs(y - top - height / 2) < height / 2),
        lambda t, x, y: (x - u, y),
        depth,
    )  # fmt: skip


def bar(turn: float) -> Shape:
    """A bar that turns about the centre of the image."""

    def turned(angle: float, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = x - SIZE / 2, y - SIZE / 2
        return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x

    def covers(t: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along, across = turned(turn * t, x, y)
        return (abs(along) < 18) & (abs(across) < 3)

    def before(t: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = turned(turn, x, y)
        return x + SIZE / 2, y + SIZE / 2

    return Shape(covers, before)


def disc(turn: float) -> Shape:
    """A disc that turns in place: its silhouette never changes."""
    return Shape(lambda t, x, y: np.hypot(x - SIZE / 2, y - SIZE / 2) < 15, bar(turn).before)


def bouncing() -> Shape:
    """A box that falls by four pixels a frame and comes back from frame 6 on."""
    return Shape(
        lambda t, x, y: (abs(x - 24) < 6) & (abs(y - 10 - 4 * abs(6 - t)) < 6),
        lambda t, x, y: (x, y - 4 * (abs(6 - t) - abs(7 - t))),
    )


SCENES = {
    "slides": [box(4, 18, 12, 12, 2)],
    "slides slowly": [box(4, 10, 12, 24, 0.3)],
    "enters": [box(-14, 10, 14, 20, 2)],
    "enters fast": [box(-60, 10, 30, 20, 8)],
    "leaves": [box(20, 10, 12, 20, 3)],
    "passes behind a post": [box(20, 0, 6, 48, 0, depth=2), box(2, 18, 12, 12, 3)],
    "appears": [box(10, 10, 14, 14, 0, start=5)],
    "turns": [bar(0.2)],
    "turns fast": [bar(0.5)],
    "turns in place": [disc(0.3)],
    "bounces": [bouncing()],
    "is thin": [box(4, 0, 2, 48, 2.3)],
    "rests": [box(10, 10, 14, 14, 0)],
}


def played(name: str, labelled: bool = True) -> tuple[list[Frame], list[np.ndarray]]:
    """Frames of a scene before a wall and a static camera, and the vectors of each to the one before."""
    centre = pixel_centres(SIZE, SIZE)
    x, y = centre[..., 0], centre[..., 1]
    view = View(np.array([[60.0, 0, SIZE / 2], [0, 60, SIZE / 2], [0, 0, 1]]), np.eye(4))
    frames, vectors = [], []
    for t in range(FRAMES):
        depth, instance, leads = np.full((SIZE, SIZE), WALL), np.zeros((SIZE, SIZE), int), np.zeros((SIZE, SIZE, 2))
        for number, shape in reversed(list(enumerate(SCENES[name], 1))):
            on = shape.covers(t, x, y)
            depth[on], instance[on] = shape.depth, number * labelled
            leads[on] = (np.stack(shape.before(t, x, y), axis=-1) - centre)[on]
        frames.append(Frame(depth, instance, view))
        vectors.append(leads)
    return frames, vectors


def contradicted_instances(frames: list[Frame], vectors: list[np.ndarray]) -> list[tuple[int, int, int]]:
    """As the import asks: windows that end at every fourth frame and at the last."""
    found = NO_EVIDENCE
    for last in range(1, len(frames)):
        if last % WINDOW_STRIDE == 0 or last == len(frames) - 1:
            first = max(0, last - WINDOW)
            found += evidence(frames[first : last + 1], vectors[first + 1 : last + 1])
    return found.contradicted_instances()


@pytest.mark.parametrize("name", SCENES)
def test_sound_vectors_are_not_contradicted(name: str) -> None:
    frames, vectors = played(name)
    assert contradicted_instances(frames, vectors) == []
    draw = np.random.default_rng(0)
    jitter = [leads + draw.uniform(-1, 1, leads.shape) for leads in vectors]
    shaken = [leads + draw.uniform(-1, 1, (1, 1, 2)) for leads in vectors]
    assert contradicted_instances(frames, jitter) == [] and contradicted_instances(frames, shaken) == []
    if name != "appears":  # without instances, an appearing object cannot be distinguished from a moving one
        assert contradicted_instances(*played(name, labelled=False)) == []


MOVING = sorted(SCENES.keys() - {"appears", "rests", "turns in place"})


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", MOVING)
def test_vectors_of_zero_are_contradicted_by_whatever_moves(name: str, labelled: bool) -> None:
    frames, vectors = played(name, labelled)
    found = contradicted_instances(frames, [leads * 0 for leads in vectors])
    moving = len(SCENES[name]) if labelled else 0
    assert [row[:2] for row in found] == [(moving, 0)] and found[0][2] >= 16


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("slides", -1), ("slides", 2), ("slides", SIZE), ("slides", 1 / SIZE), ("turns", -1), ("turns", 2),
        ("turns", SIZE), ("bounces", -1), ("bounces", 2), ("enters", -1), ("slides slowly", -1), ("leaves", -1),
    ],
)  # fmt: skip
def test_another_sign_or_scale_is_contradicted(name: str, factor: float) -> None:
    frames, vectors = played(name)
    assert [row[0] for row in contradicted_instances(frames, [leads * factor for leads in vectors])] == [1]


@pytest.mark.parametrize(
    ("wrong", "explained", "negated", "halved", "found"),
    [
        (16, 15, 0, 0, [(3, 15, 31)]), (16, 16, 0, 0, []), (15, 0, 0, 0, []), (0, 0, 16, 0, [(3, 0, 16)]),
        (0, 9, 0, 19, [(3, 9, 19)]), (0, 10, 20, 0, []), (0, 0, 15, 15, []),
    ],
)  # fmt: skip
def test_vectors_are_contradicted_by_sixteen_points_and_more_than_half_or_by_others_that_explain_twice_as_many(
    wrong: int, explained: int, negated: int, halved: int, found: list[tuple[int, int, int]]
) -> None:
    counts = NO_EVIDENCE + NO_EVIDENCE
    counts.wrong[3], counts.explained[3], counts.others[:, 3] = wrong, explained, (negated, halved)
    assert counts.contradicted_instances() == found and NO_EVIDENCE.contradicted_instances() == []


def test_other_vectors_are_tried_with_the_opposite_sign_and_half_the_length() -> None:
    frames, vectors = played("slides")
    for factor, place in ((-1, 0), (2, 1)):
        counts = evidence(frames[:9], [leads * factor for leads in vectors[1:9]])
        assert counts.others[place, 1] == counts.wrong[1] + counts.explained[1] == 144
        assert counts.others[1 - place, 1] < 16


def test_small_errors_of_vectors_do_not_add_up_over_a_long_way() -> None:
    """Two fifths of a pixel a frame, on something thinner than what that makes in eight frames."""
    frames, vectors = played("is thin")
    assert contradicted_instances(frames, [leads + np.array([0.4, 0]) for leads in vectors]) == []


def test_the_counts_are_those_of_the_points_that_moved() -> None:
    """Over one frame by 3 pixels: the leading two columns of 12 rows are more than one pixel from where it was."""
    frames, vectors = played("slides")
    fast = [frames[0], replace(frames[0], **{n: np.roll(getattr(frames[0], n), 3, 1) for n in ("depth", "instance")})]
    zero = evidence(fast, [vectors[0] * 0])
    assert (zero.wrong[1], zero.explained[1], zero.wrong.sum()) == (24, 0, 24)
    right = evidence(fast, [np.where((fast[1].instance == 1)[..., None], (-3.0, 0.0), 0.0)])
    assert (right.wrong[1], right.explained[1]) == (0, 24)
    assert zero.contradicted_instances() == [(1, 0, 24)] and right.contradicted_instances() == []


def test_vectors_that_are_not_finite_say_nothing() -> None:
    frames, vectors = played("slides")
    for nothing in (np.nan, np.inf, -np.inf):
        assert contradicted_instances(frames, [np.full_like(leads, nothing) for leads in vectors]) == []
    assert contradicted_instances(frames, [np.full_like(leads, 1e300) for leads in vectors])[0][:2] == (1, 0)


def test_a_recording_without_one_finite_vector_is_refused(shot: Callable, write: Callable, tmp_path: Path) -> None:
    made = shot("fall", "static", 11)
    with pytest.raises(UserError, match="motion_vectors: not one of them is finite"):
        folder = write(tmp_path / "in", replace(made, vectors=np.full_like(made.vectors, np.nan)))
        import_replicator(folder, tmp_path / "out", fps=12)
    some = made.vectors.copy()
    some[:, :10] = np.nan
    done = import_replicator(write(tmp_path / "some", replace(made, vectors=some)), tmp_path / "out", fps=12)
    arrays = ClipDataset(tmp_path / "out")[0].arrays
    landing = np.arange(48)[:, None] + arrays["motion"][1]
    assert done.clips == 1 and arrays["flow_valid"].mean() > 0.5 and not arrays["flow_valid"][landing < 9].any()


@pytest.mark.parametrize("camera", ["static", "moving"])
@pytest.mark.parametrize("factor", [0, -1])
def test_a_recording_whose_vectors_its_masks_contradict_is_refused_by_the_name_of_the_prim(
    shot: Callable, write: Callable, tmp_path: Path, camera: str, factor: float
) -> None:
    """Before a moving camera only what moves has wrong vectors: those of the world at rest are right."""
    made = shot("fall", camera, 11)
    moving = np.concatenate([np.zeros_like(made.truth.moving[:1]), made.truth.instance[1:] == 3])[..., None]
    wrong = replace(made, vectors=np.where(moving, factor * made.vectors, made.vectors).astype(np.float32))
    with pytest.raises(UserError, match=r"motion_vectors: of \d+ points of /World/Prim_03 that moved they lead \d+ to"):
        import_replicator(write(tmp_path / "in", wrong), tmp_path / "out", fps=12)
    bare = write(tmp_path / "bare", wrong, without=("motion_vectors",))
    assert import_replicator(bare, tmp_path / "out", fps=12).without_vectors == 1  # as the line says
