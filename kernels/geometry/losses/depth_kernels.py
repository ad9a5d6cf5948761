"""Triton kernels of the depth losses: each program works on a tile of ROWS x COLUMNS pixels of one frame.

Forward writes the sums, means and central moments of each tile in float64, which the host merges in a fixed order;
backward computes the losses again and writes every element once. The pixels of a coarser scale are handled by the tile
that holds them, as a smaller tile, so that each scale costs a quarter of the finer one; neighbours come from the cache.
Without the gradient loss a frame is one long row of 16-byte loads, and the floor is the time to move 9 bytes per pixel
in float32 (13 with weights), and 4 more in backward. The gradient loss is limited by arithmetic: about 350 instructions
per pixel, counted in sm_90 machine code, with a logarithm and an exact division per neighbour.
"""

import triton
import triton.language as tl

SUMS, SLOPES, MOST_SCALES = 25, 14, 8
_SUMS = tl.constexpr(SUMS)
_SLOPES = tl.constexpr(SLOPES)
_MOST_SCALES = tl.constexpr(MOST_SCALES)


@triton.jit
def _read(P, D, Valid, pixel, inside):
    """The mask of valid pixels, and both depths, which are 1 outside the mask."""
    valid = tl.load(Valid + pixel, mask=inside, other=0) != 0
    p = tl.load(P + pixel, mask=inside, other=1.0)
    d = tl.load(D + pixel, mask=inside, other=1.0)
    return valid, tl.where(valid, p, 1.0), tl.where(valid, d, 1.0)


@triton.jit
def _ratio(p, d):
    """p / d, correctly rounded: exactly 1 where both are equal."""
    return p / d if p.dtype == tl.float64 else tl.div_rn(p, d)


@triton.jit
def _sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def _gap(g, valid, P, D, Valid, away, pixel, inside):
    """|log ratio - log ratio of a neighbour| in float64, 0 unless both are valid, and whether both are."""
    other_valid, p, d = _read(P + away, D + away, Valid + away, pixel, inside)
    both = valid & other_valid
    gap = tl.where(both, tl.abs(tl.log(_ratio(p, d)) - g), 0.0)
    return gap.to(tl.float64), both.to(tl.int32)


@triton.jit
def _neighbour_slope(ratio, valid, P, D, Valid, away, pixel, inside):
    """Derivative of |log ratio - log ratio of a neighbour| by the first; NaN for negative ratios, which have no log."""
    other_valid, p, d = _read(P + away, D + away, Valid + away, pixel, inside)
    other = _ratio(p, d)
    slope = tl.where((ratio < 0) | (other < 0), float("nan"), _sign(ratio - other))
    return tl.where(valid & other_valid, slope, 0.0)


@triton.jit
def _tile(tile, height, width, across, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """First row and column of a tile, the offset of its first pixel, and the rows and columns to the image's edge."""
    row, column = (tile // across).to(tl.int64) * ROWS, (tile % across).to(tl.int64) * COLUMNS
    rows, columns = tl.minimum(height - row, 2 * ROWS), tl.minimum(width - column, 2 * COLUMNS)
    return row, column, row * width + column, rows.to(tl.int32), columns.to(tl.int32)


@triton.jit
def _lattice(first_row, rows, columns, SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows [R, 1] and columns [1, C] of a tile that are multiples of 2^SCALE in the image; mask of real pixels."""
    R: tl.constexpr = ROWS >> SCALE if (ROWS >> SCALE) > 0 else 1
    C: tl.constexpr = COLUMNS >> SCALE if (COLUMNS >> SCALE) > 0 else 1
    row, column = (tl.arange(0, R) << SCALE)[:, None], (tl.arange(0, C) << SCALE)[None, :]
    return row, column, (row < rows) & (column < columns) & ((first_row & ((1 << SCALE) - 1)) == 0)


@triton.jit
def forward_kernel(
    P, D, Valid, Weight, Partial, height, width, across,
    p_clip, p_frame, d_clip, d_frame, valid_clip, valid_frame, weight_clip, weight_frame,
    LOG_L1: tl.constexpr, SILOG: tl.constexpr, SCALE_SHIFT: tl.constexpr, GRADIENT: tl.constexpr,
    SCALES: tl.constexpr, HAS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Writes the requested entries of Partial float64 [clips, frames, tiles, 25], ordered as the native `DepthSums`."""
    tile = tl.program_id(0)
    frame, clip = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    image = clip * tl.num_programs(1) + frame
    P += clip * p_clip + frame * p_frame
    D += clip * d_clip + frame * d_frame
    Valid += clip * valid_clip + frame * valid_frame
    Partial += (image * tl.num_programs(0) + tile) * _SUMS
    first_row, _, before, rows, columns = _tile(tile, height, width, across, ROWS, COLUMNS)
    P += before
    D += before
    Valid += before
    row, column, inside = _lattice(first_row, rows, columns, 0, ROWS, COLUMNS)
    pixel = row * width + column
    valid, p, d = _read(P, D, Valid, pixel, inside)
    if LOG_L1 or SILOG or GRADIENT:
        g = tl.log(_ratio(p, d))
    if LOG_L1 or SILOG or SCALE_SHIFT:
        w = valid.to(tl.float64)
        if HAS_WEIGHT:
            place = Weight + clip * weight_clip + frame * weight_frame + before + pixel
            w = tl.where(valid, tl.load(place, mask=inside, other=0.0).to(tl.float64), 0.0)
        total = tl.sum(w)
        share = tl.where(total > 0, 1 / tl.where(total > 0, total, 1.0), 0.0)
        tl.store(Partial, total)
    if LOG_L1:
        tl.store(Partial + 1, tl.sum(w * tl.abs(g).to(tl.float64)))
    if SILOG:
        exact = g.to(tl.float64)
        mean = tl.sum(w * exact) * share
        tl.store(Partial + 2, mean)
        tl.store(Partial + 3, tl.sum(w * (exact - mean) * (exact - mean)))
    if SCALE_SHIFT:
        exact_p, exact_d = p.to(tl.float64), d.to(tl.float64)
        mean_p, mean_d = tl.sum(w * exact_p) * share, tl.sum(w * exact_d) * share
        exact_p -= mean_p
        exact_d -= mean_d
        tl.store(Partial + 4, mean_p)
        tl.store(Partial + 5, mean_d)
        tl.store(Partial + 6, tl.sum(w * exact_p * exact_p))
        tl.store(Partial + 7, tl.sum(w * exact_p * exact_d))
        tl.store(Partial + 8, tl.sum(w * exact_d * exact_d))
    if GRADIENT:
        for scale in tl.static_range(SCALES):
            if scale > 0:
                row, column, inside = _lattice(first_row, rows, columns, scale, ROWS, COLUMNS)
                pixel = row * width + column
                valid, p, d = _read(P, D, Valid, pixel, inside)
                g = tl.log(_ratio(p, d))
            step = 1 << scale
            right, pairs = _gap(g, valid, P, D, Valid, step, pixel, inside & (column + step < columns))
            away = tl.cast(width, tl.int64) * step
            below, more = _gap(g, valid, P, D, Valid, away, pixel, inside & (first_row + row + step < height))
            tl.store(Partial + 9 + scale, tl.sum(right + below))
            tl.store(Partial + 9 + _MOST_SCALES + scale, tl.sum(pairs + more).to(tl.float64))


@triton.jit
def backward_kernel(
    P, D, Valid, Weight, Slopes, DP, height, width, across,
    p_clip, p_frame, d_clip, d_frame, valid_clip, valid_frame, weight_clip, weight_frame,
    LOG_L1: tl.constexpr, SILOG: tl.constexpr, SCALE_SHIFT: tl.constexpr, GRADIENT: tl.constexpr,
    SCALES: tl.constexpr, HAS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Writes DP [clips, frames, H, W]; Slopes float64 [clips, frames, 14] are ordered as the native `DepthSlopes`."""
    tile = tl.program_id(0)
    frame, clip = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    image = clip * tl.num_programs(1) + frame
    P += clip * p_clip + frame * p_frame
    D += clip * d_clip + frame * d_frame
    Valid += clip * valid_clip + frame * valid_frame
    Slopes += image * _SLOPES
    first_row, first_column, before, rows, columns = _tile(tile, height, width, across, ROWS, COLUMNS)
    P += before
    D += before
    Valid += before
    row, column, inside = _lattice(first_row, rows, columns, 0, ROWS, COLUMNS)
    pixel = row * width + column
    valid, p, d = _read(P, D, Valid, pixel, inside)
    dtype = p.dtype
    ratio = _ratio(p, d)
    if LOG_L1 or SILOG or SCALE_SHIFT:
        w = valid.to(dtype)
        if HAS_WEIGHT:
            place = Weight + clip * weight_clip + frame * weight_frame + before + pixel
            w = tl.where(valid, tl.load(place, mask=inside, other=0.0), 0.0)
    slope = tl.zeros((ROWS, COLUMNS), dtype)  # the derivative by the log ratio
    if LOG_L1 or SILOG:
        g = tl.log(ratio)
        absolute, linear = tl.load(Slopes).to(dtype), tl.load(Slopes + 1).to(dtype)
        slope = w * (absolute * _sign(g) + (linear * g + tl.load(Slopes + 2).to(dtype)))
    if GRADIENT:
        for scale in tl.static_range(SCALES):
            r, c, there, at, real, x = row, column, inside, pixel, valid, ratio
            if scale > 0:
                r, c, there = _lattice(first_row, rows, columns, scale, ROWS, COLUMNS)
                at = r * width + c
                real, own_p, own_d = _read(P, D, Valid, at, there)
                x = _ratio(own_p, own_d)
            step = 1 << scale
            signs = _neighbour_slope(x, real, P, D, Valid, step, at, there & (c + step < columns))
            signs += _neighbour_slope(x, real, P, D, Valid, -step, at, there & (c + first_column >= step))
            away = tl.cast(width, tl.int64) * step
            signs += _neighbour_slope(x, real, P, D, Valid, away, at, there & (first_row + r + step < height))
            signs += _neighbour_slope(x, real, P, D, Valid, -away, at, there & (first_row + r >= step))
            signs *= tl.load(Slopes + 6 + scale).to(dtype)
            if scale > 0:
                signs = _spread(signs, first_row + row, column, scale, ROWS, COLUMNS)
            slope += signs
    slope = slope / p
    if SCALE_SHIFT:
        by, fitted = tl.load(Slopes + 3).to(dtype), tl.load(Slopes + 4).to(dtype)
        slope += by * w * (fitted * p + tl.load(Slopes + 5).to(dtype) - d)
    plane = tl.cast(height, tl.int64) * width
    tl.store(DP + image * plane + before + pixel, tl.where(valid, slope, 0.0), mask=inside)


@triton.jit
def _spread(x, row, column, SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The values of a coarser scale at their pixels of the full tile [ROWS, COLUMNS], 0 at the other pixels."""
    R: tl.constexpr = x.shape[0]
    C: tl.constexpr = x.shape[1]
    wide = tl.broadcast_to(x[:, None, :, None], (R, ROWS // R, C, COLUMNS // C)).reshape(ROWS, COLUMNS)
    return tl.where(((row | column) & ((1 << SCALE) - 1)) == 0, wide, 0.0)
