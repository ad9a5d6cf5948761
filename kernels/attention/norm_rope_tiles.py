"""Norm and rotation of tiles of tokens, inside Triton kernels that read each token once: both ways, in float32.

A tile is [N, D] in the two parts that `tiles` makes of it; channels beyond D hold 0 and keep it. Pairs of channels are
neighbours, or, with HALF and a head of a single part, a half of the head apart.
"""

import triton
import triton.language as tl

from phys4d.kernels.attention import tiles

NO_NORM, RMS, LAYER = 0, 1, 2
_NO_NORM = tl.constexpr(NO_NORM)
_LAYER = tl.constexpr(LAYER)


@triton.jit
def angles(
    Time, Height, Width, time, row, column,
    TIME: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Cosine and sine [N, CHANNELS / 2] of the pairs from channel OFFSET on, of tokens at time, row, column (each [N]).

    The tables hold TIME, HEIGHT and WIDTH pairs, cosine beside sine; pairs beyond them do not turn.
    """
    channel = OFFSET + tl.arange(0, CHANNELS)
    still = (channel >= 2 * (TIME + HEIGHT + WIDTH)) & (channel % 2 == 0)
    whole = tl.where(still, 1.0, 0.0)[None, :] + tl.zeros((time.shape[0], 1), tl.float32)
    if TIME > 0:
        at = (time * (2 * TIME))[:, None] + channel[None, :]
        whole += tl.load(Time + at, mask=(channel < 2 * TIME)[None, :], other=0.0)
    if HEIGHT > 0:
        at = (row * (2 * HEIGHT))[:, None] + (channel - 2 * TIME)[None, :]
        inside = (channel >= 2 * TIME) & (channel < 2 * (TIME + HEIGHT))
        whole += tl.load(Height + at, mask=inside[None, :], other=0.0)
    if WIDTH > 0:
        at = (column * (2 * WIDTH))[:, None] + (channel - 2 * (TIME + HEIGHT))[None, :]
        inside = (channel >= 2 * (TIME + HEIGHT)) & (channel < 2 * (TIME + HEIGHT + WIDTH))
        whole += tl.load(Width + at, mask=inside[None, :], other=0.0)
    return tl.split(tl.reshape(whole, (time.shape[0], CHANNELS // 2, 2)))


@triton.jit
def turned(x, cosine, sine, HALF: tl.constexpr):
    """x [N, CHANNELS], its pairs rotated by angles [N, CHANNELS / 2]."""
    if HALF:
        first, second = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1)))
    else:
        first, second = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
    pairs = tl.join(first * cosine - second * sine, second * cosine + first * sine)
    if HALF:
        pairs = tl.permute(pairs, (0, 2, 1))
    return tl.reshape(pairs, (x.shape[0], x.shape[1]))


@triton.jit
def _total(a, b, DB: tl.constexpr):
    """Sums over the channels of both parts, [N, 1]."""
    total = tl.sum(a, 1)
    if DB > 0:
        total += tl.sum(b, 1)
    return total[:, None]


@triton.jit
def statistics(a, b, inside, epsilon, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, NORM: tl.constexpr):
    """Mean (0 of RMS) and 1 / deviation of the channels of both parts, [N, 1]; the second is 0 outside."""
    a, b = a.to(tl.float32), b.to(tl.float32)
    mean = tl.zeros((a.shape[0], 1), tl.float32)
    if NORM == _LAYER:
        mean = _total(a, b, DB) / D
        a = _centred(a, mean, D, 0, DA)
        if DB > 0:
            b = _centred(b, mean, D, DA, DB)
    factor = tl.math.rsqrt(_total(a * a, b * b, DB) / D + epsilon)
    return mean, tl.where(inside[:, None], factor, 0.0)


@triton.jit
def _centred(x, mean, D: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr):
    """x - mean, 0 beyond D."""
    return tl.where((OFFSET + tl.arange(0, WIDTH) < D)[None, :], x - mean, 0.0)


@triton.jit
def unit(x, mean, factor, D: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr):
    """(x - mean) * factor of one part, float32."""
    x = x.to(tl.float32)
    if NORM == _LAYER:
        x = _centred(x, mean, D, OFFSET, WIDTH)
    return x * factor


@triton.jit
def channels(Weight, D: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr):
    """Channels OFFSET to OFFSET + WIDTH of a weight [D], float32 [1, WIDTH], 0 beyond D."""
    channel = OFFSET + tl.arange(0, WIDTH)
    return tl.load(Weight + channel, mask=channel < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def prepared(
    a, b, inside, Weight, Bias, epsilon, cos_a, sin_a, cos_b, sin_b,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, ROPE: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Both parts of a tile of queries or keys, normed and rotated, in their dtype; and the norm's `statistics`."""
    mean, factor = epsilon, epsilon
    if NORM != _NO_NORM:
        mean, factor = statistics(a, b, inside, epsilon, D, DA, DB, NORM)
    ready_a = _part(a, mean, factor, Weight, Bias, cos_a, sin_a, D, 0, DA, NORM, BIAS, ROPE, HALF)
    ready_b = ready_a
    if DB > 0:
        ready_b = _part(b, mean, factor, Weight, Bias, cos_b, sin_b, D, DA, DB, NORM, BIAS, ROPE, HALF)
    return ready_a, ready_b, mean, factor


@triton.jit
def _part(
    x, mean, factor, Weight, Bias, cosine, sine, D: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, ROPE: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    y = x.to(tl.float32)
    if NORM != _NO_NORM:
        y = unit(x, mean, factor, D, OFFSET, WIDTH, NORM) * channels(Weight, D, OFFSET, WIDTH)
        if BIAS:
            y += channels(Bias, D, OFFSET, WIDTH)
    if ROPE:
        y = turned(y, cosine, sine, HALF)
    return y.to(x.dtype)


@triton.jit
def finished(
    X, DX, DWeight, d_a, d_b, x_start, dx_start, seen, inside, Weight, mean, factor, cos_a, sin_a, cos_b, sin_b,
    ROWS: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    ROPE: tl.constexpr, HALF: tl.constexpr, WEIGHT_GRADIENT: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of X, read again, from that of what `prepared` made of it (float32, both parts).

    With WEIGHT_GRADIENT, also the tile's share of those of the weight, at DWeight [D], and of the bias, ROWS * D
    further; X is read where `seen`, DX written where `inside`.
    """
    if ROPE:
        d_a = turned(d_a, cos_a, -sin_a, HALF)
        if DB > 0:
            d_b = turned(d_b, cos_b, -sin_b, HALF)
    if NORM != _NO_NORM:
        x_a, x_b = tiles.load_both(X, x_start, seen, D, DA, DB, ALIGN)
        x_a = unit(x_a, mean, factor, D, 0, DA, NORM)
        if DB > 0:
            x_b = unit(x_b, mean, factor, D, DA, DB, NORM)
        if WEIGHT_GRADIENT:
            _add_up(DWeight, d_a * x_a, D, 0, DA)
            if BIAS:
                _add_up(DWeight + ROWS * D, d_a, D, 0, DA)
            if DB > 0:
                _add_up(DWeight, d_b * x_b, D, DA, DB)
                if BIAS:
                    _add_up(DWeight + ROWS * D, d_b, D, DA, DB)
        d_a *= channels(Weight, D, 0, DA)
        if DB > 0:
            d_b *= channels(Weight, D, DA, DB)
        along = _total(d_a * x_a, d_b * x_b, DB) / D
        level = along * 0
        if NORM == _LAYER:
            level = _total(d_a, d_b, DB) / D
        d_a = (d_a - x_a * along - level) * factor
        if DB > 0:
            d_b = (d_b - x_b * along - level) * factor
    tiles.store_both(DX, d_a, d_b, dx_start, inside, D, DA, DB, ALIGN)


@triton.jit
def _add_up(Sums, x, D: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr):
    """Sum of x [N, WIDTH] over the tokens, to channels OFFSET and on of Sums [D]."""
    channel = OFFSET + tl.arange(0, WIDTH)
    tl.store(Sums + channel, tl.sum(x, 0), mask=channel < D)
