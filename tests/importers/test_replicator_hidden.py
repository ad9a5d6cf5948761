"""The acceptance rules of motion.py: cards in closed form that are hidden, uncovered, or cut by a depth step."""

import numpy as np
import pytest

from phys4d.importers.replicator.camera import View
from phys4d.importers.replicator.motion import ForwardMotion, Frame, forward_motion

SIZE, FOCAL, WALL = 32, 30.0, 3.0

# (first and last column of a card, its depth, how many pixels it moves to the right): the nearest comes first.
Card = tuple[float, float, float, float]


def played(cards: list[Card], instances: tuple[int, ...] = (0, 0, 0)) -> tuple[ForwardMotion, np.ndarray]:
    """Motion of cards that span all rows before a wall at rest, and the card shown at t: [H, W], -1 the wall.

    instances: of the wall and the cards.
    """
    column = np.arange(SIZE) + 0.5
    frames, shown, vectors = [], [], np.zeros((SIZE, SIZE, 2))
    for t in range(2):
        depth, which = np.full(SIZE, WALL), np.full(SIZE, -1)
        for number, (first, last, z, step) in reversed(list(enumerate(cards))):
            on = (column > first + t * step) & (column < last + t * step)
            depth[on], which[on] = z, number
            if t:
                vectors[:, on, 0] = -step
        vectors[:, which == -1] = 0
        shown.append(np.tile(which, (SIZE, 1)))
        k = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1.0]])
        frames.append(Frame(np.tile(depth, (SIZE, 1)), np.array(instances)[shown[t] + 1], View(k, np.eye(4))))
    return forward_motion(frames[0], frames[1], vectors), shown[0]


def test_a_card_that_was_hidden_is_not_taken_for_the_one_that_left_the_image() -> None:
    result, shown = played([(4, 20, 1.0, 40.0), (2, 28, 2.0, 0.3)])
    assert (shown == 0).sum() > 400 and not result.known[shown == 0].any()
    behind = result.known & (shown == 1)
    assert behind.sum() > 100 and np.abs(result.motion[0, behind] - 0.3).max() < 1e-9


def test_of_two_surfaces_at_one_place_the_nearest_counts() -> None:
    result, shown = played([(8, 18, 2.0, -3.3), (2, 28, 2.2, 0.3)])
    near = result.known & (shown == 0)
    assert near.sum() > 100 and np.abs(result.motion[0, near] + 3.3).max() < 1e-9


@pytest.mark.parametrize("instances", [(0, 0, 0), (1, 2, 2)])
def test_nothing_is_interpolated_across_a_step(instances: tuple[int, ...]) -> None:
    """A depth step of one instance, or of none, that slides slowly; no surface is between its two depths."""
    result, shown = played([(6, 16, 2.0, 0.06), (16, 26, 2.15, 0.06)], instances)
    stair = result.known & (shown >= 0)
    assert stair.sum() > 300 and np.abs(result.motion[2, stair]).max() < 1e-9


def test_between_what_rests_and_what_slides_on_it_no_motion_is_made_up() -> None:
    """A sheet that slides on the wall at the wall's depth: without instances only the vectors separate them."""
    result, shown = played([(8, 20, WALL, 0.1)])
    sheet, wall = (result.known & (shown == number) for number in (0, -1))
    assert sheet.sum() > 200 and np.abs(result.motion[0, sheet] - 0.1).max() < 1e-9
    assert wall.sum() > 200 and np.abs(result.motion[0, wall]).max() < 1e-9
