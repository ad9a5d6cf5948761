"""The definition of gate, residual, norm and modulation in plain torch, any dtype, forward and backward."""

import torch
from torch import Tensor


def adaptive_norm_reference(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, kind: str, epsilon: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The stream x + gate * y and norm(stream) * (1 + scale) + shift; float32 inside (float64 for float64).

    Args:
        x, y: [B, S, C]; y None for nothing.
        gate, scale, shift: [R, C].
        weight, bias: [C], of the norm.
        index: [B, S] integers, the row of each token; None: each row serves B * S / R tokens in a row.
        kind: "layer", "rms", or "" for no norm; epsilon: added to the mean square.

    Returns:
        Stream and result [B, S, C] in x's dtype; the stream is rounded before it is normed.
    """
    return forward_reference(x, y, gate, weight, bias, scale, shift, index, kind, epsilon)[:2]


def forward_reference(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, kind: str, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """What `adaptive_norm_reference` gives, and what backward needs of the norm: None without one.

    That is [B, S, 2]: each token's mean (0 for "rms") and 1 / sqrt(mean square about it + epsilon).
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    stream = x
    if y is not None:
        gated = y.to(exact) if gate is None else _of_tokens(gate, x, index) * y.to(exact)
        stream = (x.to(exact) + gated).to(x.dtype)
    out, stats = stream.to(exact), None
    if kind:
        mean = out.mean(-1, keepdim=True) if kind == "layer" else torch.zeros_like(out[..., :1])
        out = out - mean
        rate = (out.square().mean(-1, keepdim=True) + epsilon).rsqrt()
        out, stats = out * rate, torch.cat((mean, rate), dim=-1)
    if weight is not None:
        out = out * weight.to(exact)
    if bias is not None:
        out = out + bias.to(exact)
    if scale is not None:
        out = out * (1 + _of_tokens(scale, x, index))
    if shift is not None:
        out = out + _of_tokens(shift, x, index)
    return stream, out.to(x.dtype), stats


def adaptive_norm_backward_reference(
    stream: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, scale: Tensor | None, stats: Tensor,
    dstream: Tensor | None, dout: Tensor | None, index: Tensor | None, kind: str, rows: int, tables_gradient: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    """Gradients of x [B, S, C], of y (None without a gate), and of the tables, [rows, parts, C].

    Args:
        stream: [B, S, C], what was normed; stats: as `forward_reference` gives it.
        y: [B, S, C], given where the gate's gradient is wanted.
        dstream, dout: gradients of stream and result; None for none.
        rows: of the tables.
        tables_gradient: whether the gradients of factor and offset are wanted.
        the rest: as in `adaptive_norm_reference`.

    Parts: with `tables_gradient` those of the factor weight * (1 + scale) and of the offset bias * (1 + scale) + shift;
    with y the gate's.
    """
    given = stream if dout is None else dout
    exact = torch.promote_types(given.dtype, torch.float32)
    dx = torch.zeros(given.shape, dtype=exact, device=given.device)
    sums = []
    if dout is not None:
        gradient, unit = dout.to(exact), stream.to(exact)
        if kind:
            mean, rate = (part[..., None] for part in stats.unbind(-1))
            unit = (unit - mean) * rate
        if tables_gradient:
            sums = [_sum_of_rows(gradient * unit, rows, index), _sum_of_rows(gradient, rows, index)]
        dx = gradient if weight is None else gradient * weight.to(exact)
        if scale is not None:
            dx = dx * (1 + _of_tokens(scale, stream, index))
        if kind:
            along = (dx * unit).mean(-1, keepdim=True)
            dx = (dx - (dx.mean(-1, keepdim=True) if kind == "layer" else 0) - unit * along) * rate
    if dstream is not None:
        dx = dx + dstream.to(exact)
    dy = None if gate is None else _of_tokens(gate, stream, index) * dx
    if y is not None:
        sums.append(_sum_of_rows(dx * y.to(exact), rows, index))
    tables = torch.stack(sums, dim=1) if sums else dx.new_empty((rows, 0, dx.shape[2]))
    return dx.to(given.dtype), dy, tables


def _of_tokens(table: Tensor, tokens: Tensor, index: Tensor | None) -> Tensor:
    """The row of a table [R, C] of each of the tokens [B, S, C], in float32 (float64 for float64 tokens)."""
    table = table.to(torch.promote_types(tokens.dtype, torch.float32))
    if index is not None:
        return table[index.long()]
    each = tokens.shape[0] * tokens.shape[1] // len(table)
    return table[:, None].expand(-1, each, -1).reshape(tokens.shape)


def _sum_of_rows(values: Tensor, rows: int, index: Tensor | None) -> Tensor:
    """Values [B, S, C] added up over the tokens of each row, [rows, C], in an order that does not change."""
    if index is None:
        return values.reshape(rows, -1, values.shape[2]).sum(1)
    row, flat = index.long().flatten(), values.flatten(0, 1)
    total = values.new_zeros(rows, values.shape[2])
    if values.is_cuda:  # sorts the indices; index_add would use float atomics
        return total.index_put((row,), flat, accumulate=True)
    return total.index_add(0, row, flat)
