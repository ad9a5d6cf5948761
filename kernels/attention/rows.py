"""Where the tokens of a pattern stand in memory: the geometry of every launch of the flash kernels.

Within each pattern a video query sees some keys that all queries share (the text) and the keys of its own row (its
frame, its place in all frames, everything). A launch computes the queries of equal rows; text queries, which see
everything, are a launch of their own. Towards keys it is the same picture turned around: a video key is seen by the
text and by its row, a text key by everything.
"""

from dataclasses import dataclass

from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Spatial, Temporal, Text


@dataclass(frozen=True)
class Rows:
    """`rows` times `count` tokens: token i of row r stands at first + r * row + i * step of the sequence."""

    first: int
    rows: int
    count: int
    row: int = 0
    step: int = 1


@dataclass(frozen=True)
class Launch:
    """The tokens that a launch owns, and those that meet them: `shared` by all rows, and their own row's."""

    own: Rows
    shared: Rows
    other: Rows


NOBODY = Rows(0, 1, 0)


def launches(
    pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int
) -> tuple[list[Launch], list[Launch]]:
    """The launches over queries (own: queries, other: keys) and over keys (own: keys, other: queries).

    Every query and every key is owned by exactly one launch. Of a `Window` only the text's are here: the video's
    rows are boxes.
    """
    if isinstance(pattern, Full):
        every_query, every_key = Rows(0, 1, queries), Rows(0, 1, keys)
        return [Launch(every_query, NOBODY, every_key)], [Launch(every_key, NOBODY, every_query)]
    assert grid is not None
    time, cells = grid[0], grid[1] * grid[2]
    number = text[0] if text else 0
    video = number if text and text[1] == "first" else 0
    words = Rows(0 if video else time * cells, 1, number)
    found = []
    if isinstance(pattern, Spatial):
        rows = Rows(video, time, cells, row=cells)
        found.append(Launch(rows, words, rows))
    elif isinstance(pattern, Temporal):
        rows = Rows(video, cells, time, step=cells, row=1)
        found.append(Launch(rows, words, rows))
    if number:
        found.append(Launch(words, NOBODY, Rows(0, 1, queries)))
    return found, found
