"""`adaptive_norm` and its gradients by torch's own operators, piece by piece: in float64 anywhere, and on CPUs
where native code is absent or does not know the dtype.

Nothing but the results is ever held whole.
"""

import torch
from torch import Tensor

from phys4d.kernels.elementwise.token_pieces import Alike, Piece, pieces, regular

_WHOLE = Alike(0, 0, 0, 0)  # for the rows of what is computed at once


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


class _Affine:
    """What is between norm and result, x * factor + offset: of all rows at once where they are few beside tokens."""

    def __init__(
        self, like: Tensor, rows: int, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
        shift: Tensor | None, exact: torch.dtype,
    ) -> None:  # fmt: skip
        self.parts = weight, bias, scale, shift
        self.exact = exact
        self.whole = self._made(*self.parts) if 8 * rows <= like.shape[0] * like.shape[1] else None

    def of(self, piece: Piece) -> tuple[Tensor | None, Tensor | None]:
        """Factor, None for 1, and offset, None for 0: [C], or for each token."""
        if self.whole is None:
            weight, bias, scale, shift = self.parts
            return self._made(weight, bias, _rows(piece, scale), _rows(piece, shift))
        factor, offset = self.whole
        return _rows(piece, factor), _rows(piece, offset)

    def _made(
        self, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """weight * (1 + scale), and bias * (1 + scale) + shift."""
        factor = None if scale is None else 1 + scale.to(self.exact)
        offset = None if shift is None else shift.to(self.exact)
        if bias is not None:
            moved = bias.to(self.exact) if factor is None else factor * bias
            offset = moved if offset is None else moved + offset
        if weight is not None:
            factor = weight.to(self.exact) if factor is None else factor.mul_(weight)
        return factor, offset


def _rows(piece: Piece, table: Tensor | None) -> Tensor | None:
    """The rows of a table's tokens; what is one for all is that."""
    return table if table is None or table.ndim == 1 else piece.rows(table)


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
    affine = _Affine(x, rows, weight, bias, scale, shift, exact)
    at_once = kind == "layer" and rows == 1 and index is None  # torch's norm makes the result itself
    for piece in pieces(x, rows, index):
        if y is not None:
            _add(piece.of(x), piece.of(y), _rows(piece, gate), scratch, piece.of(stream))
        if out.numel() and not at_once:
            value = piece.of(x if y is None else stream)
            kept = piece.of(stats) if kind else stats
            piece.of(out).copy_(_normed(value, kept, *affine.of(piece), kind, epsilon, scratch))
    if not at_once:
        return out
    return _normed(x if y is None else stream, stats, *affine.of(_WHOLE), kind, epsilon, scratch)


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
            stats[..., 1:] = rate = rate.div_(value.shape[-1]).add_(epsilon).rsqrt_()
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
    affine = _Affine(dx, len(sums), weight, None, scale, None, scratch.exact)
    at_once = kind == "layer" and len(sums) == 1 and index is None and dout is not None
    at_once &= dx.dtype == scratch.exact or not tables_gradient
    if at_once or not regular(dx, len(sums), index):
        sums.zero_()
    if at_once:
        assert dout is not None
        dx = _normed_backward(_WHOLE, stream, dout, affine.of(_WHOLE)[0], stats, kind, tables, scratch)
        if dstream is not None:
            dx.add_(dstream)
    for piece in pieces(dx, len(sums), index):
        found, value = piece.of(dx), None
        if dout is not None and not at_once:
            value = _normed_backward(
                piece, piece.of(stream), piece.of(dout), affine.of(piece)[0], piece.of(stats) if kind else stats, kind,
                tables, scratch,
            )  # fmt: skip
        if value is not None:
            found.copy_(value)
        if dstream is not None and not at_once:
            found.copy_(piece.of(dstream)) if value is None else found.add_(piece.of(dstream))
        if gate is not None:
            _through(found, piece.rows(gate), scratch, piece.of(dy))
        if y is not None:
            piece.add_product(sums[:, -1], found, piece.of(y))
    return dx


def _through(dx: Tensor, gate: Tensor, scratch: _Scratch, dy: Tensor) -> None:
    """Fills dy with gate * dx."""
    if dx.dtype == gate.dtype == dy.dtype:
        torch.mul(dx, gate, out=dy)
    else:
        exact = scratch.of(dx, 0)
        dy.copy_(exact * gate if exact is dx else exact.mul_(gate))


def _normed_backward(
    piece: Piece, value: Tensor, dout: Tensor, factor: Tensor | None, stats: Tensor, kind: str, sums: Tensor | None,
    scratch: _Scratch,
) -> Tensor:  # fmt: skip
    """The gradient of the stream [..., C] through norm and modulation; adds to the sums of factor and offset."""
    wanted = sums is not None
    if kind == "layer" and (factor is None or factor.ndim == 1) and (isinstance(piece, Alike) or not wanted):
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
    unit = value
    if kind and (wanted or kind == "rms"):
        unit = (value - stats[..., :1]).mul_(rate) if kind == "layer" else value * rate
    if sums is not None:
        piece.add_product(sums[:, 0], dout, unit)
        piece.add(sums[:, 1], dout)
    dvalue = dout.clone() if factor is None else dout * factor
    if kind == "layer":
        shape, moments = value.shape[-1:], (stats[..., :1].contiguous(), rate.contiguous())
        only_x = [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(dvalue, value, shape, *moments, None, None, only_x)[0]
    if kind == "rms":
        along = torch.linalg.vecdot(dvalue, unit).div_(value.shape[-1]).unsqueeze(-1)
        dvalue.addcmul_(unit, along, value=-1).mul_(rate)
    return dvalue
