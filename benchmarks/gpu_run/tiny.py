"""The cases of the run on so few numbers that Triton's interpreter takes a second or two for each."""

import dataclasses
from typing import Any

from phys4d.benchmarks import adaptive_norm, blocks
from phys4d.benchmarks.cases import AdaptiveNormCase, AttentionCase, BlockCase, GeometryCase, NormRopeCase
from phys4d.kernels.attention import Temporal, Window

GRID, WORDS, WIDTH = (3, 2, 2), 2, 64


def tiny(case: Any) -> Any:
    """The same case with few tokens, heads, pixels or points, under its own name."""
    if isinstance(case, AttentionCase):
        pattern = Window(2, 1, 2) if isinstance(case.pattern, Window) else case.pattern
        grid = (4, 1, 1 if case.lanes else 2) if isinstance(case.pattern, Temporal) else GRID
        words = min(case.words, WORDS)
        return dataclasses.replace(case, batch=1, grid=grid, heads=2, words=words, pattern=pattern)
    if isinstance(case, NormRopeCase):  # with all lanes of a head, which the rotation divides by axis
        return dataclasses.replace(case, grid=(2, 1, 2), heads=2, words=min(case.words, WORDS))
    if isinstance(case, AdaptiveNormCase):
        tokens = 31 if 1 < case.rows < case.tokens else 4  # several rows: one token at least for each
        return dataclasses.replace(adaptive_norm.cut(case, tokens), width=WIDTH)
    if isinstance(case, BlockCase):
        return dataclasses.replace(blocks.small(case), name=case.name, grid=(2, 1, 2))
    assert isinstance(case, GeometryCase), case
    return dataclasses.replace(case, shape=(40,) if case.op == "chamfer" else (1, 3, 16, 24))
