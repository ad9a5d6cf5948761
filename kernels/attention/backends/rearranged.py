"""A pattern as dense attention of many short sequences, for backends that know nothing else.

Spatial: every frame is a sequence; temporal: every place. Each sees the text's keys before its own; the text's queries
are one more dense call. Views where strides allow it, copies where they do not.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Full, Temporal

# (q, k, v [rows, S, heads, D], visible: bool [rows or 1, S_q or 1, S_k] or None) -> out, lse [rows, heads, S_q] or None
Dense = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def _before(call: Call, count: int) -> Tensor | None:
    """Which keys are no padding: bool [B, S_k], None if all."""
    if call.key_lengths is None:
        return None
    return torch.arange(count, device=call.k.device) < call.key_lengths.to(call.k.device)[:, None]


def run(call: Call, dense: Dense) -> tuple[Tensor, Tensor | None]:
    """The call's out and lse (None where `dense` gives none), by dense attention of rows."""
    real = _before(call, call.k.shape[1])
    if isinstance(call.pattern, Full):
        return dense(call.q, call.k, call.v, None if real is None else real[:, None])
    assert call.grid is not None
    time, cells = call.grid[0], call.grid[1] * call.grid[2]
    begin = call.words if call.text and call.text[1] == "first" else 0
    video = slice(begin, begin + time * cells)
    words = slice(0, begin) if begin else slice(time * cells, None)
    temporal = isinstance(call.pattern, Temporal)
    causal = isinstance(call.pattern, Temporal) and call.pattern.causal
    rows, count = (cells, time) if temporal else (time, cells)

    def split(x: Tensor) -> Tensor:  # [B, S, ...] to [B, rows, count, ...]
        x = x[:, video].unflatten(1, (time, cells))
        return x.transpose(1, 2) if temporal else x

    def join(x: Tensor) -> Tensor:  # and back
        x = x.unflatten(0, (-1, rows))
        return (x.transpose(1, 2) if temporal else x).flatten(1, 2)

    def with_text(x: Tensor) -> Tensor:
        own = split(x)
        if call.words:
            own = torch.cat((x[:, None, words].expand(-1, rows, *[-1] * (x.ndim - 1)), own), dim=2)
        return own.flatten(0, 1)

    visible = None
    if causal:
        visible = torch.ones(count, call.words + count, dtype=torch.bool, device=call.q.device).tril(call.words)[None]
    if real is not None:
        each = with_text(real)[:, None]
        visible = each if visible is None else visible & each
    out, lse = dense(split(call.q).flatten(0, 1), with_text(call.k), with_text(call.v), visible)
    out, lse = join(out), None if lse is None else join(lse.transpose(1, 2)).transpose(1, 2)
    if not call.words:
        return out, lse
    text, text_lse = dense(call.q[:, words], call.k, call.v, None if real is None else real[:, None])
    order = (text, out) if begin else (out, text)
    if lse is not None and text_lse is not None:
        lse = torch.cat((text_lse, lse) if begin else (lse, text_lse), dim=2)
    return torch.cat(order, dim=1), lse
