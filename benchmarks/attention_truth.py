"""What a case of attention gives, in float64, for some of its queries."""

from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks.cases import AttentionCase
from phys4d.kernels.attention import Full
from phys4d.kernels.attention.backends.flex import mask_mod
from phys4d.kernels.elementwise import Rope, norm_rope_reference


def rope_of(case: AttentionCase, device: torch.device) -> Rope:
    """The rotation of a case that has one."""
    assert case.lanes is not None and sum(case.lanes[1:]) == 0, "the naive form rotates by time only"
    return Rope.make(case.grid, case.lanes, device=device)


def text_of(case: AttentionCase) -> Any:
    """The argument `text` of the case's attention."""
    return (case.words, "first") if case.words else None


def sampled_truth(case: AttentionCase, q: Tensor, k: Tensor, v: Tensor, *weights: Tensor, queries: Tensor) -> Tensor:
    """The output of the chosen queries in float64, [B, n, heads, D], computed for one clip and head at a time."""
    if case.lanes is not None:
        q, k = (
            norm_rope_reference(t.double(), weight, None, "rms", 1e-6, rope_of(case, t.device), case.grid, 0)
            for t, weight in zip((q, k), weights, strict=True)
        )
    visible = None
    if not isinstance(case.pattern, Full):
        keys = torch.arange(case.tokens, device=q.device)
        visible = mask_mod(case.pattern, case.grid, text_of(case))(None, None, queries[:, None], keys)  # type: ignore[arg-type]
    out = torch.empty((len(q), len(queries), *q.shape[2:]), dtype=torch.float64, device=q.device)
    for clip in range(len(q)):
        for head in range(q.shape[2]):
            scores = q[clip, queries, head].double() @ k[clip, :, head].double().T * case.dim**-0.5
            if visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
            out[clip, :, head] = scores.softmax(-1) @ v[clip, :, head].double()
    return out
