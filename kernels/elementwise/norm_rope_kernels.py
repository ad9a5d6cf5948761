"""Norm and rotation of one token per program: one read and one write, everything between in float32.

A tile holds the pairs of all heads of a token, as two halves [heads, pairs]: the channels that come first in a pair and
those that come second. `interleaved` pairs are read as whole channels and split in registers. Strides come in units of
ALIGN numbers, which shows the compiler how wide it may read.
"""

import triton
import triton.language as tl

RMS, LAYER, RMS_ACROSS_HEADS, NO_NORM = 0, 1, 2, 3
_LAYER = tl.constexpr(LAYER)
_ACROSS = tl.constexpr(RMS_ACROSS_HEADS)
_NO_NORM = tl.constexpr(NO_NORM)


@triton.jit
def _load(X, head_stride, heads, HEADS: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, HALF: tl.constexpr):
    """First and second channels of all pairs at X, float32 [HEADS, PAIRS]; heads `head_stride` apart; 0 outside."""
    head = tl.arange(0, HEADS).to(tl.int64)[:, None]
    if HALF:
        pair = tl.arange(0, PAIRS)[None, :]
        inside = (head < heads) & (pair < D // 2)
        first = tl.load(X + head * head_stride + pair, mask=inside, other=0.0)
        second = tl.load(X + head * head_stride + pair + D // 2, mask=inside, other=0.0)
    else:
        channel = tl.arange(0, 2 * PAIRS)[None, :]
        whole = tl.load(X + head * head_stride + channel, mask=(head < heads) & (channel < D), other=0.0)
        first, second = tl.split(tl.reshape(whole, (HEADS, PAIRS, 2)))
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def _store(
    X, first, second, head_stride, heads, HEADS: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, HALF: tl.constexpr
):  # fmt: skip
    head = tl.arange(0, HEADS).to(tl.int64)[:, None]
    first, second = first.to(X.dtype.element_ty), second.to(X.dtype.element_ty)
    if HALF:
        pair = tl.arange(0, PAIRS)[None, :]
        inside = (head < heads) & (pair < D // 2)
        tl.store(X + head * head_stride + pair, first, mask=inside)
        tl.store(X + head * head_stride + pair + D // 2, second, mask=inside)
    else:
        channel = tl.arange(0, 2 * PAIRS)[None, :]
        whole = tl.reshape(tl.join(first, second), (HEADS, 2 * PAIRS))
        tl.store(X + head * head_stride + channel, whole, mask=(head < heads) & (channel < D))


@triton.jit
def _turn(
    Time, Height, Width, position, cells, width, tokens, time_pairs, height_pairs, width_pairs, PAIRS: tl.constexpr
):  # fmt: skip
    """Cosine and sine [1, PAIRS] of the video token at `position`; 1 and 0 outside of the video and its pairs."""
    pair = tl.arange(0, PAIRS)
    video = (position >= 0) & (position < tokens)
    time, row, column = position // cells, position % cells // width, position % width
    in_time = video & (pair < time_pairs)
    in_height = video & (pair >= time_pairs) & (pair < time_pairs + height_pairs)
    in_width = video & (pair >= time_pairs + height_pairs) & (pair < time_pairs + height_pairs + width_pairs)
    at_time = Time + 2 * (time * time_pairs + pair)
    at_height = Height + 2 * (row * height_pairs + pair - time_pairs)
    at_width = Width + 2 * (column * width_pairs + pair - time_pairs - height_pairs)
    cosine = (
        tl.load(at_time, mask=in_time, other=0.0)
        + tl.load(at_height, mask=in_height, other=0.0)
        + tl.load(at_width, mask=in_width, other=0.0)
    )
    sine = (
        tl.load(at_time + 1, mask=in_time, other=0.0)
        + tl.load(at_height + 1, mask=in_height, other=0.0)
        + tl.load(at_width + 1, mask=in_width, other=0.0)
    )
    return tl.where(in_time | in_height | in_width, cosine, 1.0)[None, :], sine[None, :]


@triton.jit
def _mean(first, second, heads, D: tl.constexpr, NORM: tl.constexpr):
    """Mean over the channels that are normed together, [HEADS, 1] or [1, 1]; channels outside must hold 0."""
    total = tl.sum(first + second, 1)[:, None]
    if NORM == _ACROSS:
        return tl.sum(total, 0)[None, :] / (heads * D)
    else:
        return total / D


@triton.jit
def _normed(
    first, second, heads, epsilon, HEADS: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, NORM: tl.constexpr
):  # fmt: skip
    """x / rms(x), or (x - mean) / deviation, and the factor."""
    if NORM == _LAYER:
        inside = tl.arange(0, PAIRS)[None, :] < D // 2
        mean = _mean(first, second, heads, D, NORM)
        first, second = tl.where(inside, first - mean, 0.0), tl.where(inside, second - mean, 0.0)
    factor = tl.math.rsqrt(_mean(first * first, second * second, heads, D, NORM) + epsilon)
    return first * factor, second * factor, factor


@triton.jit
def forward(
    X, Y, Weight, Bias, Time, Height, Width, count, heads, epsilon, begin, cells, width, tokens,
    time_pairs, height_pairs, width_pairs, x_batch, x_token, x_head,
    HEADS: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, HALF: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, ROPE: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Y [B, S, heads, D], contiguous; token s stands at begin + s of the video's tokens (negative: text)."""
    program = tl.program_id(0)
    token = program % count
    clip = (program // count).to(tl.int64)
    X += (clip * x_batch + token.to(tl.int64) * x_token) * ALIGN
    first, second = _load(X, tl.cast(x_head, tl.int64) * ALIGN, heads, HEADS, D, PAIRS, HALF)
    if NORM != _NO_NORM:
        first, second, _ = _normed(first, second, heads, epsilon, HEADS, D, PAIRS, NORM)
        w_first, w_second = _load(Weight, D if NORM == _ACROSS else 0, heads, HEADS, D, PAIRS, HALF)
        first, second = first * w_first, second * w_second
        if BIAS:
            b_first, b_second = _load(Bias, D if NORM == _ACROSS else 0, heads, HEADS, D, PAIRS, HALF)
            first, second = first + b_first, second + b_second
    if ROPE:
        cosine, sine = _turn(
            Time, Height, Width, begin + token, cells, width, tokens, time_pairs, height_pairs, width_pairs, PAIRS
        )
        first, second = first * cosine - second * sine, second * cosine + first * sine
    _store(Y + program.to(tl.int64) * heads * D, first, second, D, heads, HEADS, D, PAIRS, HALF)


@triton.jit
def backward(
    X, DY, DX, Weight, DWeight, DBias, Time, Height, Width, count, total, programs, heads, epsilon, begin, cells, width,
    tokens, time_pairs, height_pairs, width_pairs,
    x_batch, x_token, x_head, dy_batch, dy_token, dy_head,
    HEADS: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, HALF: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, ROPE: tl.constexpr, ALIGN: tl.constexpr, WEIGHT_GRADIENT: tl.constexpr,
):  # fmt: skip
    """DX [B, S, heads, D], contiguous; DWeight, DBias float32 [programs, heads or 1, D], each program's share.

    A program takes the tokens program, program + programs, ...: with the sum over programs, that is two steps in a
    fixed order.
    """
    program = tl.program_id(0)
    w_first, w_second = tl.zeros((HEADS, PAIRS), tl.float32), tl.zeros((HEADS, PAIRS), tl.float32)
    dw_first, dw_second, db_first, db_second = w_first, w_second, w_first, w_second
    if NORM != _NO_NORM:
        w_first, w_second = _load(Weight, D if NORM == _ACROSS else 0, heads, HEADS, D, PAIRS, HALF)
    for begun in range(program, total, programs):
        index = tl.zeros((), tl.int64) + begun
        token, clip = index % count, index // count
        at = (clip * dy_batch + token * dy_token) * ALIGN
        first, second = _load(DY + at, tl.cast(dy_head, tl.int64) * ALIGN, heads, HEADS, D, PAIRS, HALF)
        if ROPE:
            cosine, sine = _turn(
                Time, Height, Width, begin + token, cells, width, tokens, time_pairs, height_pairs, width_pairs, PAIRS
            )
            first, second = first * cosine + second * sine, second * cosine - first * sine
        if NORM != _NO_NORM:
            at = (clip * x_batch + token * x_token) * ALIGN
            x_first, x_second = _load(X + at, tl.cast(x_head, tl.int64) * ALIGN, heads, HEADS, D, PAIRS, HALF)
            x_first, x_second, factor = _normed(x_first, x_second, heads, epsilon, HEADS, D, PAIRS, NORM)
            if WEIGHT_GRADIENT:
                dw_first, dw_second = dw_first + first * x_first, dw_second + second * x_second
                if BIAS:
                    db_first, db_second = db_first + first, db_second + second
            first, second = first * w_first, second * w_second
            along = _mean(first * x_first, second * x_second, heads, D, NORM)
            dx_first, dx_second = first - x_first * along, second - x_second * along
            if NORM == _LAYER:
                level = _mean(first, second, heads, D, NORM)
                dx_first, dx_second = dx_first - level, dx_second - level
            first, second = dx_first * factor, dx_second * factor
        _store(DX + index * heads * D, first, second, D, heads, HEADS, D, PAIRS, HALF)
    if WEIGHT_GRADIENT:
        if NORM == _ACROSS:
            at = program.to(tl.int64) * heads * D
            _store(DWeight + at, dw_first, dw_second, D, heads, HEADS, D, PAIRS, HALF)
        else:
            at = program.to(tl.int64) * D
            _store(
                DWeight + at, tl.sum(dw_first, 0)[None, :], tl.sum(dw_second, 0)[None, :], D, 1, 1, D, PAIRS, HALF
            )  # fmt: skip
            if BIAS:
                _store(
                    DBias + at, tl.sum(db_first, 0)[None, :], tl.sum(db_second, 0)[None, :], D, 1, 1, D, PAIRS, HALF
                )  # fmt: skip
