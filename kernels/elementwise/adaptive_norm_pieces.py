"""`adaptive_norm` and its gradients by torch's own operators, piece by piece: on CPUs, and in float64 anywhere.

Nothing but the results is ever held whole. A piece is small beside a cache of the last level, so that memory is passed
over about once, and large enough that many threads are seldom made to wait for each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_NUMBERS = 1 << 18  # of a piece, for each thread
_SHORT = 16  # tokens in a row that are worth a piece of their own


class _Scratch:
    """Room for a piece in float32 (float64), used for every piece: fresh memory costs more than what is done in it."""

    def __init__(self, exact: torch.dtype) -> None:
        self.exact = exact
        self.rooms: dict[int, Tensor] = {}

    def of(self, tokens: Tensor, place: int) -> Tensor:
        """The tokens, in the exact dtype: themselves, or copied to that place of the scratch."""
        if tokens.dtype == self.exact:
            return tokens
        room = self.rooms.get(place)
        if room is None or room.numel() < tokens.numel():
            room = self.rooms[place] = tokens.new_empty(tokens.numel(), dtype=self.exact)
        return room[: tokens.numel()].view(tokens.shape).copy_(tokens)


@dataclass(frozen=True)
class _Piece:
    """Tokens begin..end of a clip, and their rows: one for all, a slice with one for every `run`, a tensor of each."""

    clip: int
    begin: int
    end: int
    row: int | slice | Tensor
    run: int = 1

    def of(self, tokens: Tensor) -> Tensor:
        return tokens[self.clip, self.begin : self.end]

    def rows_of(self, table: Tensor | None) -> Tensor | None:
        """[C], or [tokens, C]."""
        if table is None:
            return None
        rows = table[self.row]
        return rows.repeat_interleave(self.run, 0) if self.run > 1 else rows

    def add(self, table: Tensor, values: Tensor) -> None:
        """Adds [tokens, C] to the rows of its tokens; those of a slice belong to no other piece."""
        if isinstance(self.row, Tensor):
            table.index_add_(0, self.row, values.to(table.dtype))
        elif isinstance(self.row, slice):
            table[self.row] = values.unflatten(0, (-1, self.run)).sum(1) if self.run > 1 else values
        else:
            table[self.row] += values.sum(0, dtype=table.dtype)

    def add_product(self, table: Tensor, values: Tensor, others: Tensor) -> None:
        """The same for values * others."""
        if isinstance(self.row, slice) and self.run == 1 and values.dtype == others.dtype == table.dtype:
            torch.mul(values, others, out=table[self.row])
        else:
            self.add(table, values * others)


def _pieces(like: Tensor, rows: int, index: Tensor | None) -> Iterator[_Piece]:
    clips, count, width = like.shape
    longest = max(1, _NUMBERS * torch.get_num_threads() // width)
    if index is not None:
        yield from _pieces_by_index(index, longest)
        return
    run = _run(like, rows)
    for clip in range(clips):
        begin = 0
        while begin < count:
            first = clip * count + begin
            left = run - first % run
            if run >= _SHORT or left < run or run > count - begin:
                end = min(count, begin + longest, begin + left)
                yield _Piece(clip, begin, end, first // run)
            else:
                whole = min(max(1, longest // run), (count - begin) // run)
                end = begin + whole * run
                yield _Piece(clip, begin, end, slice(first // run, first // run + whole), run)
            begin = end


def _run(like: Tensor, rows: int) -> int:
    """Tokens of a row."""
    return like.shape[0] * like.shape[1] // rows


def _pieces_by_index(index: Tensor, longest: int) -> Iterator[_Piece]:
    """Long runs of tokens that share a row as pieces of one row, all others with a row for each token."""
    for clip, rows in enumerate(index.long()):
        values, counts = torch.unique_consecutive(rows, return_counts=True)
        begin = pending = 0
        for row, length in zip(values.tolist(), counts.tolist(), strict=True):
            if length >= _SHORT:
                yield from _scattered(clip, rows, pending, begin, longest)
                for first in range(begin, begin + length, longest):
                    yield _Piece(clip, first, min(first + longest, begin + length), row)
                pending = begin + length
            begin += length
        yield from _scattered(clip, rows, pending, begin, longest)


def _scattered(clip: int, rows: Tensor, begin: int, end: int, longest: int) -> Iterator[_Piece]:
    for first in range(begin, end, longest):
        last = min(first + longest, end)
        yield _Piece(clip, first, last, rows[first:last])


def _factor(piece: _Piece, weight: Tensor | None, scale: Tensor | None, exact: torch.dtype) -> Tensor | None:
    """weight * (1 + scale), [C] or [tokens, C]; None for 1."""
    rows = piece.rows_of(scale)
    if rows is None:
        return None if weight is None else weight.to(exact)
    factor = 1 + rows.to(exact)
    return factor if weight is None else factor.mul_(weight)


def _offset(
    piece: _Piece, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, exact: torch.dtype
) -> Tensor | None:
    """bias * (1 + scale) + shift, [C] or [tokens, C]; None for 0."""
    offset = _factor(piece, bias, scale, exact) if bias is not None else None
    rows = piece.rows_of(shift)
    if offset is None or rows is None:
        return offset if rows is None else rows.to(exact)
    return offset + rows


def forward(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, rows: int, kind: str, epsilon: float,
    stream: Tensor, out: Tensor, stats: Tensor,
) -> Tensor:  # fmt: skip
    """Fills the stream (unless empty), out (unless empty) and, with a norm, stats [B, S, 2]: mean and 1 / deviation.

    Returns out, or a tensor in its place.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    scratch = _Scratch(exact)
    at_once = kind == "layer" and rows == 1 and index is None  # torch's norm makes the result itself
    for piece in _pieces(x, rows, index):
        if y is not None:
            _add(piece.of(x), piece.of(y), piece.rows_of(gate), scratch, piece.of(stream))
        if out.numel() and not at_once:
            value = piece.of(x if y is None else stream)
            factor, offset = _factor(piece, weight, scale, exact), _offset(piece, bias, scale, shift, exact)
            piece.of(out).copy_(
                _normed(value, piece.of(stats) if kind else stats, factor, offset, kind, epsilon, scratch)
            )  # fmt: skip
    if not at_once:
        return out
    whole = _Piece(0, 0, 0, 0)
    factor, offset = _factor(whole, weight, scale, exact), _offset(whole, bias, scale, shift, exact)
    return _normed(x if y is None else stream, stats, factor, offset, kind, epsilon, scratch)


def _add(x: Tensor, y: Tensor, gate: Tensor | None, scratch: _Scratch, stream: Tensor) -> None:
    """Fills the stream with x + gate * y, rounded once: torch's own operators do so where all dtypes are the same."""
    if y.dtype == x.dtype and (gate is None or gate.dtype == x.dtype):
        torch.add(x, y, out=stream) if gate is None else torch.addcmul(x, y, gate, out=stream)
        return
    total = scratch.of(y, 0)
    total = total.mul(gate) if total is y and gate is not None else total if gate is None else total.mul_(gate)
    torch.add(x, total, out=stream) if x.dtype == scratch.exact else stream.copy_(scratch.of(x, 1).add_(total))


def _normed(
    value: Tensor, stats: Tensor, factor: Tensor | None, offset: Tensor | None, kind: str, epsilon: float,
    scratch: _Scratch,
) -> Tensor:  # fmt: skip
    """norm(value) * factor + offset of tokens [..., C]; fills stats [..., 2]."""
    if kind == "layer":
        alike = all(t is None or t.ndim == 1 for t in (factor, offset))
        if alike and factor is None and offset is not None:
            factor = torch.ones_like(offset)
        inside = (factor, offset) if alike else (None, None)
        value = value if alike else scratch.of(value, 0)
        value, mean, rate = torch.native_layer_norm(value, value.shape[-1:], *inside, epsilon)
        stats[..., :1], stats[..., 1:] = mean, rate
        if alike:
            return value
    else:
        value = scratch.of(value, 0)
        if kind == "rms":
            rate = torch.linalg.vector_norm(value, dim=-1, keepdim=True).square_()
            stats[:, 1:] = rate = rate.div_(value.shape[-1]).add_(epsilon).rsqrt_()
            value = value * rate
    if factor is not None and offset is not None:
        return torch.addcmul(offset, value, factor)
    value = value if factor is None else value * factor
    return value if offset is None else value + offset


def backward(
    stream: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, scale: Tensor | None, stats: Tensor,
    dstream: Tensor | None, dout: Tensor | None, index: Tensor | None, kind: str, tables_gradient: bool,
    dx: Tensor, dy: Tensor, sums: Tensor,
) -> Tensor:  # fmt: skip
    """Fills dx, dy unless empty, and sums [rows, parts, C]: of factor and offset, if wanted, and with y of the gate.

    Returns dx, or a tensor in its place.
    """
    scratch = _Scratch(torch.promote_types(dx.dtype, torch.float32))
    tables = sums if tables_gradient else None
    at_once = kind == "layer" and len(sums) == 1 and index is None and dout is not None
    at_once &= dx.dtype == scratch.exact or not tables_gradient
    once = not at_once and index is None and len(sums) * _SHORT > dx.shape[0] * dx.shape[1]
    if not once or dx.shape[1] % _run(dx, len(sums)):
        sums.zero_()  # else each row is written once
    if at_once:
        assert dout is not None
        whole = _Piece(0, 0, 0, 0)
        dx = _normed_backward(
            whole, stream, dout, _factor(whole, weight, scale, scratch.exact), stats, kind, tables, scratch
        )  # fmt: skip
        if dstream is not None:
            dx.add_(dstream)
    for piece in _pieces(dx, len(sums), index):
        found, value = piece.of(dx), None
        if dout is not None and not at_once:
            value = _normed_backward(
                piece, piece.of(stream), piece.of(dout), _factor(piece, weight, scale, scratch.exact),
                piece.of(stats) if kind else stats, kind, tables, scratch,
            )  # fmt: skip
        if dstream is not None and not at_once:
            value = piece.of(dstream) if value is None else value.add_(piece.of(dstream))
        if value is not None:
            found.copy_(value)
        if dy.numel():
            _through(found, piece.rows_of(gate), scratch, piece.of(dy))
        if y is not None:
            piece.add_product(sums[:, -1], found, piece.of(y))
    return dx


def _through(dx: Tensor, gate: Tensor | None, scratch: _Scratch, dy: Tensor) -> None:
    """Fills dy with gate * dx."""
    assert gate is not None
    if dx.dtype == gate.dtype == dy.dtype:
        torch.mul(dx, gate, out=dy)
    else:
        exact = scratch.of(dx, 0)
        dy.copy_(exact * gate if exact is dx else exact.mul_(gate))


def _normed_backward(
    piece: _Piece, value: Tensor, dout: Tensor, factor: Tensor | None, stats: Tensor, kind: str, sums: Tensor | None,
    scratch: _Scratch,
) -> Tensor:  # fmt: skip
    """The gradient of the stream [..., C] through norm and modulation; adds to the sums of factor and offset."""
    wanted = sums is not None
    if kind == "layer" and (factor is None or factor.ndim == 1) and (isinstance(piece.row, int) or not wanted):
        if wanted:  # torch adds up a weight's gradient in the dtype of what it is given
            value, dout = scratch.of(value, 0), scratch.of(dout, 1)
        factor = torch.ones(value.shape[-1:], dtype=scratch.exact, device=value.device) if factor is None else factor
        moments = stats[..., :1].contiguous(), stats[..., 1:].contiguous()  # its kernel reads them as if they were
        dvalue, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            dout, value, value.shape[-1:], *moments, factor, factor, [True, wanted, wanted]
        )
        if sums is not None:
            piece.add(sums[:, 0], dweight[None])
            piece.add(sums[:, 1], dbias[None])
        return dvalue
    value, dout, rate = scratch.of(value, 0), scratch.of(dout, 1), stats[..., 1:]
    if kind == "layer":
        value = (value - stats[:, :1]).mul_(rate)
    elif kind == "rms":
        value = value * rate
    if sums is not None:
        piece.add_product(sums[:, 0], dout, value)
        piece.add(sums[:, 1], dout)
    dvalue = dout.clone() if factor is None else dout * factor
    if not kind:
        return dvalue
    along = torch.linalg.vecdot(dvalue, value).div_(value.shape[-1]).unsqueeze(-1)
    if kind == "layer":
        dvalue.sub_(dvalue.mean(-1, keepdim=True))
    return dvalue.addcmul_(value, along, value=-1).mul_(rate)
