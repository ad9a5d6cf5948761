"""The pattern of docs/add-a-kernel.md, taken from the page: what the page says is enough is enough."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from phys4d.kernels.attention import allowed, attention, attention_reference, explain, patterns
from phys4d.kernels.attention.backends.flex import mask_mod

PAGE = Path(__file__).resolve().parents[3] / "docs" / "add-a-kernel.md"
GRID = (5, 2, 3)


@pytest.fixture
def strided(monkeypatch):
    monkeypatch.setattr(patterns, "PATTERNS", dict(patterns.PATTERNS))
    (code,) = re.findall(r"```python\n(@dataclass.*?)```", PAGE.read_text(), re.DOTALL)
    names = dict(vars(patterns))
    exec(code, names)  # as if it stood in patterns.py
    return names["Strided"]


def test_it_is_what_the_page_says(strided):
    mask = allowed(strided(2), GRID, (4, "last"))
    cells = list(itertools.product(*map(range, GRID)))
    for (i, a), (j, b) in itertools.product(enumerate(cells), repeat=2):
        assert bool(mask[i, j]) == ((a[0] - b[0]) % 2 == 0)
    assert mask[30:].all() and mask[:, 30:].all()
    assert strided(2).keys_per_query(GRID) == int(mask[:30, :30].sum(1).max())
    assert strided.from_numbers(strided(3).numbers) == strided(3)
    with pytest.raises(ValueError, match="t must be between 1 and the grid's 5"):
        allowed(strided(6), GRID)


def test_backends_that_need_no_rows_serve_it_and_the_others_say_why_not(strided):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 34, 2, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    asked = {"grid": GRID, "pattern": strided(2), "text": (4, "first"), "key_lengths": torch.tensor([34, 20])}
    expected, _ = attention_reference(q, k, v, **asked)
    for backend in ("auto", "reference", "sdpa"):
        torch.testing.assert_close(attention(q, k, v, **asked, backend=backend), expected)
    assert explain(q, k, v, **asked).backend == "sdpa"
    index = torch.arange(34)
    of_flex = mask_mod(strided(2), GRID, (4, "first"))(index, index, index[:, None], index[None])
    assert torch.equal(of_flex, allowed(strided(2), GRID, (4, "first")))
