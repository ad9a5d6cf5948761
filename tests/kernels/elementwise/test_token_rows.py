"""Tokens in the order of the rows that they take, in segments of one row."""

import itertools

import pytest
import torch

from phys4d.kernels.elementwise import TokenRows


def test_token_rows_tell_the_segments():
    index = torch.tensor([[3, 0, 0, 3], [3, 3, 1, 3]])
    rows = TokenRows.of(index, 5)
    assert rows.order.tolist() == [1, 2, 6, 0, 3, 4, 5, 7]
    for segments in (rows.forward, rows.backward):
        taken = [(r, t) for r, b, e in segments.tolist() for t in rows.order[b:e].tolist()]
        assert sorted(t for _, t in taken) == list(range(8))
        assert all(index.flatten()[t] == r for r, t in taken)
    row_of = rows.backward[:, 0].tolist()
    for row, (begin, end) in enumerate(itertools.pairwise(rows.begins.tolist())):
        assert all(row_of[k] == row for k in range(begin, end))
    with pytest.raises(ValueError, match="expected 0 to 2, got 0 to 3"):
        TokenRows.of(index, 3)
    with pytest.raises(ValueError, match=r"expected integers \[B, S\], got torch.float32"):
        TokenRows.of(index.float(), 5)
