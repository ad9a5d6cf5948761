"""Which tokens each launch of the flash kernels owns, and which tokens meet them.

Within a pattern of rows a video query sees some keys that all queries share (the text) and the keys of its own row (its
frame, its place in all frames, everything). A launch computes the queries of equal rows; text queries, which see
everything, are a launch of their own. Towards keys the roles are exchanged: a video key is seen by the text and by its
row, a text key by everything.
"""

from typing import NamedTuple

from phys4d.kernels.attention.patterns import Grid, Pattern, Rows, Text, layout


class RowLaunch(NamedTuple):
    """The tokens that a launch owns, and those that meet them: `shared` by all rows, and the `other` of their own row.

    own.causal: whether a row's tokens meet only those before them and themselves.
    """

    own: Rows
    shared: Rows
    other: Rows


NO_TOKENS = Rows(1, 0)


def launches(
    pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int
) -> tuple[list[RowLaunch], list[RowLaunch]]:
    """The launches over queries (own: queries, other: keys) and over keys (own: keys, other: queries).

    Every query and every key is owned by exactly one launch. Of a pattern without rows only the text's launch is here:
    its own kernel computes the video.
    """
    if pattern.sees_all or (pattern.crosses and not (text and text[0])):
        causal = not pattern.sees_all
        every_query, every_key = Rows(1, queries, causal=causal), Rows(1, keys, causal=causal)
        return [RowLaunch(every_query, NO_TOKENS, every_key)], [RowLaunch(every_key, NO_TOKENS, every_query)]
    assert grid is not None
    _, number, video_start, text_start = layout(grid, text)
    shared = Rows(1, number, first=text_start)
    found = []
    rows = pattern.rows(grid)
    if rows is not None:
        rows = rows._replace(first=video_start)
        found.append(RowLaunch(rows, shared, rows))
    if number:
        found.append(RowLaunch(shared, NO_TOKENS, Rows(1, queries)))
    return found, found
