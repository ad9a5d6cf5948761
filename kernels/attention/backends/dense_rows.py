"""A pattern of rows as dense attention of many short sequences, for backends that know dense attention alone.

Spatial: every frame is a sequence; temporal: every place. Each sees the text's keys before its own; the text's queries
are one more dense call. Views where strides allow it, copies where they do not.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import layout

# (q, k, v [rows, S, heads, D], visible: [rows or 1, heads or 1, S_q or 1, S_k], bool, or floating where it is added to
# the scores; None if all; whether query i also sees the keys 0 to i alone) -> out, lse [rows, heads, S_q] or None
Dense = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor | None]]


def serves(call: Call) -> bool:
    """Whether the call is dense or causal attention of rows; with rows inside the sequence, the mask is one of keys."""
    return call.one_row or (call.rows is not None and (call.mask is None or _hides_keys(call.mask)))


def combined(mask: Tensor | None, seen: Tensor | None) -> Tensor | None:
    """The mask, bool or additive, where a query sees a key (bool, broadcastable); None where it sees all."""
    if mask is None or seen is None:
        return seen if mask is None else mask
    return mask & seen if mask.dtype == torch.bool else torch.where(seen, mask, -torch.inf)


def _hides_keys(mask: Tensor) -> bool:
    """Whether it hides keys from all queries alike."""
    return mask.dtype == torch.bool and mask.shape[1:3] == (1, 1)


def _real_keys(call: Call) -> Tensor | None:
    """Which keys are no padding: bool [B, S_k], None if all."""
    if call.key_lengths is None:
        return None
    return torch.arange(call.k.shape[1], device=call.k.device) < call.key_lengths.to(call.k.device)[:, None]


def run(call: Call, dense: Dense) -> tuple[Tensor, Tensor | None]:
    """The call's out and lse (None where `dense` gives none), by dense attention of rows; see `serves`."""
    real = _real_keys(call)
    if call.one_row:
        visible = combined(call.mask, None if real is None else real[:, None, None])
        return dense(call.q, call.k, call.v, visible, call.causal)
    if call.mask is not None:
        kept = call.mask[:, 0, 0].expand(len(call.q), -1)
        real = kept if real is None else kept & real
    rows = call.rows
    assert call.grid is not None and rows is not None
    cells, number, video_start, text_start = layout(call.grid, call.text)
    video, text = slice(video_start, video_start + cells), slice(text_start, text_start + number)
    interleaved = rows.row_step < rows.token_step  # the tokens of a row are not neighbours
    sizes = (rows.length, rows.number) if interleaved else (rows.number, rows.length)

    def split(x: Tensor) -> Tensor:  # [B, S, ...] to [B, rows, length, ...]
        x = x[:, video].unflatten(1, sizes)
        return x.transpose(1, 2) if interleaved else x

    def join(x: Tensor) -> Tensor:  # and back
        x = x.unflatten(0, (-1, rows.number))
        return (x.transpose(1, 2) if interleaved else x).flatten(1, 2)

    def with_text(x: Tensor) -> Tensor:
        own = split(x)
        if number:
            own = torch.cat((x[:, None, text].expand(-1, rows.number, *[-1] * (x.ndim - 1)), own), dim=2)
        return own.flatten(0, 1)

    causal = rows.causal and not number
    seen = None if real is None else with_text(real)[:, None, None]
    if rows.causal and number:
        after_text = torch.ones(rows.length, number + rows.length, dtype=torch.bool, device=call.q.device)
        after_text = after_text.tril(number)[None, None]
        seen = after_text if seen is None else after_text & seen
    out, lse = dense(split(call.q).flatten(0, 1), with_text(call.k), with_text(call.v), seen, causal)
    out = join(out)
    lse = None if lse is None else join(lse.transpose(1, 2)).transpose(1, 2)
    if not number:
        return out, lse
    shown = None if real is None else real[:, None, None]
    text_out, text_lse = dense(call.q[:, text], call.k, call.v, shown, False)
    order = (text_out, out) if video_start else (out, text_out)
    if lse is not None and text_lse is not None:
        lse = torch.cat((text_lse, lse) if video_start else (lse, text_lse), dim=2)
    return torch.cat(order, dim=1), lse
