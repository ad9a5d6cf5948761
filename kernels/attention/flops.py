"""What attention computes, as torch's FLOP counter (`torch.utils.flop_counter.FlopCounterMode`) counts it.

Products of matrices alone, as torch counts, two FLOPs for a multiplication and an addition: 2 (D + D_v) for every pair
of a query and a key that the pattern sees, for each head of the queries. Backward is counted as the five products of
Dao et al. 2022 (with the scores computed again), 2.5 times forward where D_v = D, whichever kernel computes it: so is
torch's own attention counted, and the two further products of our deterministic kernels would not let backends be
compared. Key lengths and masks are data, which a count must not wait for: keys that they hide count as the others.

Elementwise and geometric operators of this package multiply no matrices and count nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from phys4d.kernels.attention import int8, ops
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Grid, Pattern, Text
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM

Shape = Sequence[int]
Run = Callable[[Call], tuple[Tensor, Tensor | None]]


def seen_pairs(pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int) -> int:
    """Pairs of a query and a key that sees it, of one head of one clip, text included."""
    number = text[0] if text else 0
    if pattern.sees_all:
        return queries * keys
    if grid is None:  # one causal row
        equal = min(queries, keys)
        return equal * (equal + 1) // 2 + (queries - equal) * keys
    cells = grid[0] * grid[1] * grid[2]
    return number * keys + cells * number + pattern.pairs(grid)


def _pairs(q: Shape, k: Shape, pattern: str, sizes: list[int], text: int, text_first: bool) -> int:
    """Pairs of all heads and clips, from shapes [B, S, heads, D] and the operator's arguments."""
    return q[0] * q[2] * seen_pairs(*ops.pattern_of(pattern, sizes, text, text_first), q[1], k[1])


@register_flop_formula(torch.ops.phys4d.attention)
def forward_flops(q: Shape, k: Shape, v: Shape, pattern: str, sizes: list[int], text: int, text_first: bool,
                  *rest: Any, out_shape: Any = None) -> int:  # fmt: skip
    """FLOPs of the operator, from the shapes of its tensors."""
    return 2 * _pairs(q, k, pattern, sizes, text, text_first) * (q[3] + v[3])


@register_flop_formula(torch.ops.phys4d.attention_backward)
def backward_flops(q: Shape, k: Shape, v: Shape, out: Shape, lse: Shape, dout: Shape, dlse: Shape | None,
                   pattern: str, sizes: list[int], text: int, text_first: bool,
                   *rest: Any, out_shape: Any = None) -> int:  # fmt: skip
    """FLOPs of the backward operator: scores, dq and dk over D channels; gradients of weights and dv over D_v."""
    return 2 * _pairs(q, k, pattern, sizes, text, text_first) * (3 * q[3] + 2 * v[3])


@register_flop_formula(int8.int8_op._opoverload.overloadpacket)
def int8_flops(q: Shape, k: Shape, *rest: Any, out_shape: Any = None) -> int:
    """Operations of the int8 operator, half of them on int8."""
    return 4 * q[0] * q[2] * q[1] * k[1] * q[3]


def shown_to_counters(run: Run) -> Run:
    """The same computation by a backend whose products do not pass torch's dispatcher, seen by FLOP counters.

    While a counter is active it sees a call of our operator on tensors of the same shapes without data, and behind
    the gradient one of its backward operator. Compiled calls are not seen.
    """

    def shown(call: Call) -> tuple[Tensor, Tensor | None]:
        out, lse = run(call)
        if not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack():
            out = _Shown.apply(out, call)
        return out, lse

    return shown


class _Shown(torch.autograd.Function):
    """out [B, S, heads, D_v], with the work behind it and its gradient shown to dispatch modes."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, call: Call) -> Tensor:
        tensors = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in (call.q, call.k, call.v, out)]
        where = (*ops.flat_pattern(call.pattern, call.grid, call.text), None, None, call.factor)
        ctx.work = tensors, where
        ops.attention_op(*tensors[:3], *where, False, *NO_TRANSFORM)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        tensors, where = ctx.work
        lse = torch.empty(0, device="meta")
        ops.attention_backward_op(*tensors, lse, tensors[3], None, *where, *NO_TRANSFORM, False)
        return gradients[0], None
