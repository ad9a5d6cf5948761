"""Which numbers of ranks can divide the tokens of a clip, and what is said of others."""

from typing import Any

import pytest

from phys4d.engine.distributed.mesh import ParallelConfig
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models.config import ModelConfig
from phys4d.models.division import check_division
from phys4d.models.world import create_model

TOKENS = (3, 2, 2)


@pytest.mark.parametrize(
    ("context", "method", "by_frame"),
    [(1, "ulysses", True), (2, "ulysses", True), (6, "ulysses", False), (4, "ring", True), (12, "auto", False)],
)
def test_heads_and_tokens_that_divide_are_taken(context: int, method: Any, by_frame: bool) -> None:
    check_division(ParallelConfig(context=context, context_method=method), 6, TOKENS, by_frame)


@pytest.mark.parametrize(
    ("context", "method", "by_frame", "said"),
    [
        (
            4, "ulysses", False,
            '6 heads do not divide over 4 ranks with context_method = "ulysses": set it to one of 1, 2, 3, 6, or '
            'context_method to "auto"',
        ),
        (13, "ring", False, "12 tokens of a clip do not give each of 13 ranks one: set it to 12 at most, or take"),
        (5, "auto", True, "4 tokens of a frame do not give each of 5 ranks one: set it to 4 at most, or take"),
    ],
)  # fmt: skip
def test_others_are_refused_with_the_key(context: int, method: Any, by_frame: bool, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_division(ParallelConfig(context=context, context_method=method), 6, TOKENS, by_frame)
    assert str(refusal.value).startswith(f"parallel.context: {said}")


def test_a_model_checks_the_ranks_that_divide_its_clips_and_no_others() -> None:
    """Nine ranks for the eight tokens of a clip: refused where a context group divides them, and only there."""
    model = create_model(ModelConfig(width=32, layers=1, taps=(0,)), 5, 16, 16, seed=0)
    parallel = Parallel.alone()
    parallel.config = ParallelConfig(context=9, context_method="ring")
    model.use_attention("reference", parallel)  # each rank holds the whole clip
    parallel.context = Any  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"^parallel\.context: 8 tokens of a clip do not give each of 9 ranks one"):
        model.use_attention("reference", parallel)
