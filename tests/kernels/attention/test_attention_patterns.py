"""The patterns, by their definitions in words."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phys4d.kernels.attention import Full, Spatial, Temporal, Window, allowed
from phys4d.kernels.attention.backends.flex import mask_mod
from phys4d.kernels.attention.patterns import PATTERNS, check_pattern, layout

grids = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@st.composite
def windows(draw):
    grid = draw(grids)
    return grid, Window(*(draw(st.integers(1, size)) for size in grid))


def cells(grid):
    return list(itertools.product(*(range(size) for size in grid)))


@given(grids)
def test_spatial_is_the_own_frame_and_temporal_the_own_place(grid):
    spatial, temporal, causal = (allowed(p, grid) for p in (Spatial(), Temporal(), Temporal(causal=True)))
    for (i, a), (j, b) in itertools.product(enumerate(cells(grid)), repeat=2):
        assert bool(spatial[i, j]) == (a[0] == b[0])
        assert bool(temporal[i, j]) == (a[1:] == b[1:])
        assert bool(causal[i, j]) == (a[1:] == b[1:] and b[0] <= a[0])


@given(windows())
def test_a_window_is_the_clamped_box(case):
    grid, window = case
    mask = allowed(window, grid)
    sizes = (window.t, window.h, window.w)
    for (i, a), (j, b) in itertools.product(enumerate(cells(grid)), repeat=2):
        starts = [max(0, min(p - w // 2, n - w)) for p, n, w in zip(a, grid, sizes, strict=True)]
        inside = all(s <= p < s + w for s, p, w in zip(starts, b, sizes, strict=True))
        assert bool(mask[i, j]) == inside
    assert (mask.sum(1) == window.t * window.h * window.w).all(), "every query sees exactly t*h*w keys"
    assert mask.diagonal().all(), "every query sees itself"


@given(grids)
def test_windows_of_the_extreme_sizes_are_the_other_patterns(grid):
    t, h, w = grid
    assert torch.equal(allowed(Window(t, h, w), grid), allowed(Full(), grid))
    assert torch.equal(allowed(Window(1, h, w), grid), allowed(Spatial(), grid))
    assert torch.equal(allowed(Window(t, 1, 1), grid), allowed(Temporal(), grid))


@given(windows(), st.integers(0, 3), st.sampled_from(["first", "last"]))
def test_text_sees_all_and_is_seen_by_all(case, words, side):
    grid, window = case
    mask = allowed(window, grid, (words, side))
    size = len(cells(grid))
    text = torch.arange(words) + (0 if side == "first" else size)
    video = torch.arange(size) + (words if side == "first" else 0)
    assert mask[text].all() and mask[:, text].all()
    assert torch.equal(mask[video][:, video], allowed(window, grid))


@pytest.mark.parametrize("window", [Window(3, 1, 1), Window(1, 5, 1), Window(1, 1, 6), Window(0, 1, 1)])
def test_a_window_larger_than_the_grid_is_refused(window):
    with pytest.raises(ValueError, match="must be between 1 and the grid's"):
        allowed(window, (2, 4, 5))


@pytest.mark.parametrize("text", [(-1, "first"), (2, "middle")])
def test_an_impossible_text_is_refused(text):
    with pytest.raises(ValueError, match="text: expected"):
        allowed(Spatial(), (2, 2, 2), text)


@pytest.mark.parametrize(
    ("grid", "text", "queries", "keys", "message"),
    [
        (None, None, 8, 8, "needs the video's"),
        ((2, 4), None, 8, 8, "three positive sizes"),
        ((2, 2, 0), None, 0, 0, "three positive sizes"),
        ((0, -2, 4), None, 0, 0, "three positive sizes"),
        ((2, 2, 2), None, 9, 8, "makes a sequence of 8, got 9 queries and 8 keys"),
        ((2, 2, 2), None, 8, 9, "makes a sequence of 8, got 8 queries and 9 keys"),
        ((2, 2, 2), (3, "last"), 8, 8, "with 3 text tokens makes a sequence of 11"),
        ((2, 2, 2), (-1, "last"), 7, 7, "text: expected"),
        ((2, 2, 2), (3, "middle"), 11, 11, "text: expected"),
    ],
)
def test_a_grid_that_does_not_make_the_sequence_is_refused(grid, text, queries, keys, message):
    with pytest.raises(ValueError, match=message):
        check_pattern(Spatial(), grid, text, queries, keys)


@pytest.mark.parametrize(
    ("pattern", "grid", "text", "queries", "keys"),
    [
        (Spatial(), (1, 1, 1), None, 1, 1), (Spatial(), (2, 3, 4), (0, "first"), 24, 24),
        (Spatial(), (2, 3, 4), (1, "last"), 25, 25), (Full(), None, None, 5, 7), (Full(), None, (2, "first"), 5, 7),
        (Window(2, 3, 4), (2, 3, 4), None, 24, 24), (Window(1, 1, 1), (2, 3, 4), (2, "first"), 26, 26),
    ],
)  # fmt: skip
def test_a_grid_that_makes_the_sequence_is_taken(pattern, grid, text, queries, keys):
    check_pattern(pattern, grid, text, queries, keys)


def test_keys_and_rows_in_numbers():
    """Of 2 frames of 3 x 4 cells: keys of a query; number, length, row step, token step, causal and first of rows."""
    patterns = (Full(), Spatial(), Temporal(), Temporal(causal=True), Window(2, 1, 3))
    assert [pattern.keys_per_query((2, 3, 4)) for pattern in patterns] == [24, 12, 2, 2, 6]
    assert [pattern.rows((2, 3, 4)) for pattern in patterns] == [
        (1, 24, 24, 1, False, 0), (2, 12, 12, 1, False, 0), (12, 2, 1, 12, False, 0), (12, 2, 1, 12, True, 0), None
    ]  # fmt: skip


def test_the_layout_in_numbers():
    """Tokens of video and of text, and where each begins."""
    assert layout((2, 3, 4), None) == (24, 0, 0, 24)
    assert layout((2, 3, 4), (5, "first")) == (24, 5, 5, 0)
    assert layout((2, 3, 4), (5, "last")) == (24, 5, 0, 24)


patterns = st.one_of(
    windows(),
    st.tuples(grids, st.sampled_from([Full(), Full(causal=True), Spatial(), Temporal(), Temporal(causal=True)])),
)


@given(patterns)
def test_a_pattern_tells_its_number_of_keys_and_its_rows(case):
    grid, pattern = case
    mask = allowed(pattern, grid)
    assert int(mask.sum(1).max()) == pattern.keys_per_query(grid)
    rows = pattern.rows(grid)
    if rows is None:
        return
    by_rows = torch.zeros_like(mask)
    for row in range(rows.number):
        tokens = [rows.first + row * rows.row_step + i * rows.token_step for i in range(rows.length)]
        for i, query in enumerate(tokens):
            by_rows[query, tokens[: i + 1] if rows.causal else tokens] = True
    assert torch.equal(mask, by_rows)


@given(patterns)
def test_a_pattern_comes_back_from_its_name_and_numbers(case):
    pattern = case[1]
    assert PATTERNS[pattern.name].from_numbers(pattern.numbers) == pattern


@given(patterns, st.integers(0, 3), st.sampled_from(["first", "last"]))
def test_the_mask_of_indices_is_the_mask(case, words, side):
    grid, pattern = case
    index = torch.arange(len(cells(grid)) + words)
    found = mask_mod(pattern, grid, (words, side))(index, index, index[:, None], index[None])
    assert torch.equal(found.expand(len(index), len(index)), allowed(pattern, grid, (words, side)))
