"""`adaptive_norm` and its gradients by torch's own operators, piece by piece: on CPUs, and in float64 anywhere.

A piece is small enough to stay in the cache between one operator and the next, so that a pass over memory takes it
through all of them, and nothing but the results is ever held whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_NUMBERS = 1 << 17  # of a piece, for each thread
_SHORT = 16  # tokens in a row that are worth a piece of their own


@dataclass(frozen=True)
class _Piece:
    """Tokens begin..end of a clip, and the row of the modulation that they share, or, as a tensor, the row of each."""

    clip: int
    begin: int
    end: int
    row: int | Tensor

    def of(self, tokens: Tensor) -> Tensor:
        return tokens[self.clip, self.begin : self.end]

    def rows_of(self, table: Tensor | None, exact: torch.dtype) -> Tensor | None:
        """[C], or [tokens, C]."""
        return None if table is None else table[self.row].to(exact)

    def add(self, table: Tensor, values: Tensor) -> None:
        """Adds [tokens, C] to the rows of its tokens."""
        if isinstance(self.row, int):
            table[self.row] += values.sum(0)
        else:
            table.index_add_(0, self.row, values)


def _pieces(like: Tensor, rows: int, index: Tensor | None) -> Iterator[_Piece]:
    clips, count, width = like.shape
    longest = max(1, _NUMBERS * torch.get_num_threads() // width)
    run = clips * count // rows
    for clip in range(clips):
        begin = 0
        while begin < count:
            end = min(count, begin + longest)
            first = clip * count + begin
            if index is not None:
                yield _Piece(clip, begin, end, index[clip, begin:end].long())
            elif run < _SHORT:
                tokens = torch.arange(first, first + end - begin, device=like.device)
                yield _Piece(clip, begin, end, tokens.div(run, rounding_mode="floor"))
            else:
                end = min(end, begin + run - first % run)
                yield _Piece(clip, begin, end, first // run)
            begin = end


def _factor(piece: _Piece, weight: Tensor | None, scale: Tensor | None, exact: torch.dtype) -> Tensor | None:
    """weight * (1 + scale), [C] or [tokens, C]; None for 1."""
    factor = piece.rows_of(scale, exact)
    factor = None if factor is None else 1 + factor
    if weight is None:
        return factor
    return weight.to(exact) if factor is None else factor.mul_(weight)


def _offset(
    piece: _Piece, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, exact: torch.dtype
) -> Tensor | None:
    """bias * (1 + scale) + shift, [C] or [tokens, C]; None for 0."""
    offset = _factor(piece, bias, scale, exact) if bias is not None else None
    moved = piece.rows_of(shift, exact)
    if offset is None or moved is None:
        return moved if offset is None else offset
    return offset + moved


def forward(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, rows: int, kind: str, epsilon: float,
    stream: Tensor, out: Tensor, stats: Tensor,
) -> None:  # fmt: skip
    """Fills the stream (unless empty), out (unless empty) and, with a norm, stats [B, S, 2]: mean and 1 / deviation."""
    exact = torch.promote_types(x.dtype, torch.float32)
    for piece in _pieces(x, rows, index):
        value = piece.of(x).to(exact)
        if y is not None:
            value = _added(value, piece.of(y).to(exact), piece.rows_of(gate, exact))
            piece.of(stream).copy_(value)
            value = value if exact == x.dtype else piece.of(stream).to(exact)
        if not out.numel():
            continue
        factor, offset = _factor(piece, weight, scale, exact), _offset(piece, bias, scale, shift, exact)
        if kind == "layer" and isinstance(piece.row, int):
            if factor is None and offset is not None:
                factor = torch.ones_like(offset)
            value, *moments = torch.native_layer_norm(value, value.shape[-1:], factor, offset, epsilon)
            piece.of(stats).copy_(torch.cat(moments, dim=-1))
        else:
            if kind == "layer":
                value, *moments = torch.native_layer_norm(value, value.shape[-1:], None, None, epsilon)
                piece.of(stats).copy_(torch.cat(moments, dim=-1))
            elif kind == "rms":
                rate = torch.linalg.vector_norm(value, dim=-1, keepdim=True).square_()
                rate = rate.div_(value.shape[-1]).add_(epsilon).rsqrt_()
                piece.of(stats)[:, 1:].copy_(rate)
                value = value * rate
            value = value if factor is None else value * factor
            value = value if offset is None else value + offset
        piece.of(out).copy_(value)


def _added(value: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    return value + y if gate is None else torch.addcmul(value, y, gate)


def backward(
    stream: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, scale: Tensor | None, stats: Tensor,
    dstream: Tensor | None, dout: Tensor | None, index: Tensor | None, kind: str, tables_gradient: bool,
    dx: Tensor, dy: Tensor, sums: Tensor,
) -> None:  # fmt: skip
    """Fills dx, dy unless empty, and sums [rows, parts, C]: of factor and offset, if wanted, and with y of the gate."""
    exact = torch.promote_types(dx.dtype, torch.float32)
    sums.zero_()
    for piece in _pieces(dx, len(sums), index):
        value = None
        if dout is not None:
            value = _normed_backward(
                piece, piece.of(stream).to(exact), piece.of(dout).to(exact), _factor(piece, weight, scale, exact),
                piece.of(stats) if kind else stats, kind, sums if tables_gradient else None,
            )  # fmt: skip
        if dstream is not None:
            added = piece.of(dstream).to(exact)
            value = added if value is None else value.add_(added)
        assert value is not None
        piece.of(dx).copy_(value)
        if dy.numel():
            through = piece.rows_of(gate, exact)
            piece.of(dy).copy_(value if through is None else value * through)
        if y is not None:
            piece.add(sums[:, -1], value * piece.of(y).to(exact))


def _normed_backward(
    piece: _Piece, value: Tensor, dout: Tensor, factor: Tensor | None, stats: Tensor, kind: str,
    sums: Tensor | None,
) -> Tensor:  # fmt: skip
    """The gradient of the stream [tokens, C] through norm and modulation; adds to the sums of factor and offset."""
    wanted = sums is not None
    if kind == "layer" and isinstance(piece.row, int):
        factor = torch.ones_like(value[0]) if factor is None else factor
        moments = stats[:, :1].contiguous(), stats[:, 1:].contiguous()  # its kernel reads them as if they were
        dvalue, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            dout, value, value.shape[-1:], *moments, factor, factor, [True, wanted, wanted]
        )
        if sums is not None:
            sums[piece.row, 0] += dweight
            sums[piece.row, 1] += dbias
        return dvalue
    rate = stats[..., 1:]
    if kind == "layer":
        value = (value - stats[:, :1]).mul_(rate)
    elif kind == "rms":
        value = value * rate
    if sums is not None:
        piece.add(sums[:, 0], dout * value)
        piece.add(sums[:, 1], dout)
    dvalue = dout.clone() if factor is None else dout * factor
    if not kind:
        return dvalue
    along = torch.linalg.vecdot(dvalue, value).div_(value.shape[-1]).unsqueeze(-1)
    if kind == "layer":
        dvalue = dvalue.sub_(dvalue.mean(-1, keepdim=True))
    return dvalue.sub_(value.mul_(along)).mul_(rate)
