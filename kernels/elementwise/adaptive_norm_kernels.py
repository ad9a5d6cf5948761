"""Residual, norm and modulation of whole tokens: one read and one write, everything between in float32.

A program takes a segment: tokens that share a row of the modulation, which it reads once. They are consecutive, or,
where rows are shared in another way, consecutive in the order of their rows. Strides come in units of ALIGN numbers,
which shows the compiler how wide it may read.
"""

import triton
import triton.language as tl

NO_NORM, LAYER, RMS = 0, 1, 2
_NO_NORM, _LAYER = tl.constexpr(NO_NORM), tl.constexpr(LAYER)


@triton.jit
def _segment(Segments, program, run, length, ORDERED: tl.constexpr):
    """(row, first position, end) of the program's tokens."""
    if ORDERED:
        row = tl.load(Segments + program * 3)
        begin = tl.load(Segments + program * 3 + 1)
        end = tl.load(Segments + program * 3 + 2)
    else:
        each = tl.cdiv(run, length)
        row = program // each
        begin = row * run + program % each * length
        end = tl.minimum(begin + length, (row + 1) * run)
    return row, begin, end


@triton.jit
def _token(Order, position, ORDERED: tl.constexpr):
    if ORDERED:
        return tl.load(Order + position).to(tl.int64)
    else:
        return tl.zeros((), tl.int64) + position


@triton.jit
def _row(Table, row, row_stride, channel, inside, ALIGN: tl.constexpr, PRESENT: tl.constexpr):
    """A row of a table [rows, C] in float32, 0 where there is none."""
    if PRESENT:
        return tl.load(Table + row.to(tl.int64) * row_stride * ALIGN + channel, mask=inside, other=0.0).to(tl.float32)
    else:
        return tl.zeros(channel.shape, tl.float32)


@triton.jit
def forward(
    X, Y, Stream, Out, Stats, Weight, Bias, Gate, Scale, Shift, Segments, Order,
    count, run, length, width, epsilon, x_batch, x_token, y_batch, y_token, gate_row, scale_row, shift_row,
    CHANNELS: tl.constexpr, ALIGN: tl.constexpr, ORDERED: tl.constexpr, STAGES: tl.constexpr,
    NORM: tl.constexpr, RESIDUAL: tl.constexpr, GATE: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    SCALE: tl.constexpr, SHIFT: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Stream and Out [B, S, C], contiguous; Stats float32 [B, S, 2]: mean and 1 / deviation, for the way back."""
    row, begin, end = _segment(Segments, tl.program_id(0), run, length, ORDERED)
    channel = tl.arange(0, CHANNELS)
    inside = channel < width
    gate = _row(Gate, row, gate_row, channel, inside, ALIGN, GATE)
    factor = 1 + _row(Scale, row, scale_row, channel, inside, ALIGN, SCALE)
    offset = _row(Bias, row, 0, channel, inside, ALIGN, BIAS) * factor
    offset += _row(Shift, row, shift_row, channel, inside, ALIGN, SHIFT)
    if WEIGHT:
        factor *= _row(Weight, row, 0, channel, inside, ALIGN, WEIGHT)
    for position in tl.range(begin, end, num_stages=STAGES):
        token = _token(Order, position, ORDERED)
        clip, place = token // count, token % count
        x = tl.load(X + (clip * x_batch + place * x_token) * ALIGN + channel, mask=inside, other=0.0).to(tl.float32)
        at = token * width + channel
        if RESIDUAL:
            y = tl.load(Y + (clip * y_batch + place * y_token) * ALIGN + channel, mask=inside, other=0.0).to(tl.float32)
            if GATE:
                y *= gate
            x = (x + y).to(Stream.dtype.element_ty)
            tl.store(Stream + at, x, mask=inside)
            x = x.to(tl.float32)  # what is normed is what is stored, so that the way back knows it
        if OUT:
            if NORM != _NO_NORM:
                mean = tl.zeros((), tl.float32)
                if NORM == _LAYER:
                    mean = tl.sum(x, 0) / width
                    x = tl.where(inside, x - mean, 0.0)
                rate = tl.math.rsqrt(tl.sum(x * x, 0) / width + epsilon)
                tl.store(Stats + token * 2, mean)
                tl.store(Stats + token * 2 + 1, rate)
                x *= rate
            tl.store(Out + at, (x * factor + offset).to(Out.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    Stream, Y, DStream, DOut, DX, DY, Stats, Partial, Weight, Gate, Scale, Segments, Order,
    count, run, length, width, x_batch, x_token, y_batch, y_token, ds_batch, ds_token, do_batch, do_token,
    gate_row, scale_row,
    CHANNELS: tl.constexpr, ALIGN: tl.constexpr, ORDERED: tl.constexpr, STAGES: tl.constexpr,
    NORM: tl.constexpr, GATE: tl.constexpr, WEIGHT: tl.constexpr, SCALE: tl.constexpr,
    STREAM_GRADIENT: tl.constexpr, OUT: tl.constexpr, GATE_GRADIENT: tl.constexpr, TABLES: tl.constexpr,
):  # fmt: skip
    """DX, DY [B, S, C], contiguous; Partial float32 [programs, parts, C]: of factor and offset, if TABLES, of the gate.

    The factor is weight * (1 + scale), the offset bias * (1 + scale) + shift: all other gradients follow from them.
    """
    program = tl.program_id(0)
    row, begin, end = _segment(Segments, program, run, length, ORDERED)
    channel = tl.arange(0, CHANNELS)
    inside = channel < width
    gate = _row(Gate, row, gate_row, channel, inside, ALIGN, GATE)
    factor = 1 + _row(Scale, row, scale_row, channel, inside, ALIGN, SCALE)
    if WEIGHT:
        factor *= _row(Weight, row, 0, channel, inside, ALIGN, WEIGHT)
    dfactor = tl.zeros((CHANNELS,), tl.float32)
    doffset, dgate = dfactor, dfactor
    for position in tl.range(begin, end, num_stages=STAGES):
        token = _token(Order, position, ORDERED)
        clip, place = token // count, token % count
        at = token * width + channel
        dx = tl.zeros((CHANNELS,), tl.float32)
        if OUT:
            dout = tl.load(DOut + (clip * do_batch + place * do_token) * ALIGN + channel, mask=inside, other=0.0)
            dout = dout.to(tl.float32)
            dx = dout * factor
            if NORM != _NO_NORM or TABLES:
                x = tl.load(Stream + (clip * x_batch + place * x_token) * ALIGN + channel, mask=inside, other=0.0)
                x = x.to(tl.float32)
                rate = 1.0
                if NORM != _NO_NORM:
                    rate = tl.load(Stats + token * 2 + 1)
                    if NORM == _LAYER:
                        x = tl.where(inside, x - tl.load(Stats + token * 2), 0.0)
                    x *= rate
                if TABLES:
                    dfactor += dout * x
                    doffset += dout
                if NORM != _NO_NORM:
                    along = tl.sum(dx * x, 0) / width
                    if NORM == _LAYER:
                        dx -= tl.sum(dx, 0) / width
                    dx = (dx - x * along) * rate
        if STREAM_GRADIENT:
            dstream = tl.load(DStream + (clip * ds_batch + place * ds_token) * ALIGN + channel, mask=inside, other=0.0)
            dx += dstream.to(tl.float32)
        tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)
        if GATE:
            tl.store(DY + at, (dx * gate).to(DY.dtype.element_ty), mask=inside)
        if GATE_GRADIENT:
            y = tl.load(Y + (clip * y_batch + place * y_token) * ALIGN + channel, mask=inside, other=0.0)
            dgate += dx * y.to(tl.float32)
    at = program.to(tl.int64) * (2 * TABLES + GATE_GRADIENT) * width + channel
    if TABLES:
        tl.store(Partial + at, dfactor, mask=inside)
        tl.store(Partial + at + width, doffset, mask=inside)
    if GATE_GRADIENT:
        tl.store(Partial + at + 2 * TABLES * width, dgate, mask=inside)


@triton.jit
def collect(Partial, Begins, Rows, each, width, HEIGHT: tl.constexpr, CHANNELS: tl.constexpr, ORDERED: tl.constexpr):
    """Rows float32 [rows, width]: the sum of each row's segments, which follow each other, in a fixed order."""
    row = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    begin, end = row * each, (row + 1) * each
    if ORDERED:
        begin, end = tl.load(Begins + row), tl.load(Begins + row + 1)
    total = tl.zeros((HEIGHT, CHANNELS), tl.float32)
    for first in range(begin, end, HEIGHT):
        segment = first + tl.arange(0, HEIGHT)
        inside = (segment < end)[:, None] & (channel < width)[None, :]
        total += tl.load(Partial + segment.to(tl.int64)[:, None] * width + channel[None, :], mask=inside, other=0.0)
    tl.store(Rows + row.to(tl.int64) * width + channel, tl.sum(total, 0), mask=channel < width)
