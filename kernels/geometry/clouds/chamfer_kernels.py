"""Chamfer distance on the GPU by exhaustive search, one kernel per direction, and its gradients.

A program holds BLOCK points of one cloud and loops over the other cloud in tiles of TILE points, one lane per pair.
Each lane keeps its own nearest point, and the lanes are reduced once, at the end, to the lowest index. Multiplications
are not fused with additions, so that indices and distances have the bits of the CPU's search.

For the gradient the pairs (point, its nearest neighbour) are sorted by neighbour. One lane per point adds up the pairs
of which it is the neighbour, in their order. A run of RUN sorted pairs with one neighbour is added up beforehand by a
program of its own, so that a point that is the neighbour of very many others does not hold up the other lanes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from phys4d.kernels.dispatch import launch

TILES = {torch.float32: (128, 16), torch.float64: (64, 16)}  # BLOCK, TILE: the largest without spilled registers
GRADIENT_BLOCK, RUN = 128, 256  # for 100,000 pairs with one neighbour a lane adds 390 runs and at most 510 pairs


@triton.jit
def _axis(X, points, axis: tl.constexpr, D: tl.constexpr, inside, other):
    return tl.load(X + points * D + axis, mask=inside, other=other)


@triton.jit
def _square(a0, a1, a2, a3, b0, b1, b2, b3, D: tl.constexpr):
    d0, d1, d2 = a0 - b0, a1 - b1, a2 - b2
    total = d0 * d0 + d1 * d1 + d2 * d2
    if D == 4:
        d3 = a3 - b3
        total = total + d3 * d3
    return total


@triton.jit
def search_kernel(
    X, Y, XLengths, YLengths, Squares, Index, points, others, blocks,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Squares and Index [B, points] of the nearest in Y [B, others, D] to X [B, points, D]; 0 in the padding."""
    program = tl.program_id(0)
    clip = (program // blocks).to(tl.int64)
    row = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count, other_count = tl.load(XLengths + clip).to(tl.int32), tl.load(YLengths + clip).to(tl.int32)
    inside = row < count
    X += clip * points * D
    Y += clip * others * D
    x0 = _axis(X, row, 0, D, inside, 0.0)
    x1 = _axis(X, row, 1, D, inside, 0.0)
    x2 = _axis(X, row, 2, D, inside, 0.0)
    x3 = _axis(X, row, D - 1, D, inside, 0.0)
    best = tl.full((BLOCK, TILE), float("inf"), X.dtype.element_ty)
    where = tl.zeros((BLOCK, TILE), tl.int32)
    column = tl.arange(0, TILE)
    reached = tl.where(tl.sum(inside.to(tl.int32)) > 0, other_count, 0)
    for start in range(0, reached, TILE):
        at = (start + column).to(tl.int64)
        there = at < other_count
        y0 = _axis(Y, at, 0, D, there, float("inf"))  # infinitely far: never the nearest
        y1 = _axis(Y, at, 1, D, there, float("inf"))
        y2 = _axis(Y, at, 2, D, there, float("inf"))
        y3 = _axis(Y, at, D - 1, D, there, float("inf"))
        square = _square(
            x0[:, None], x1[:, None], x2[:, None], x3[:, None], y0[None, :], y1[None, :], y2[None, :], y3[None, :], D
        )
        nearer = square < best
        best = tl.where(nearer, square, best)
        where = tl.where(nearer, start // TILE, where)
    least = tl.min(best, axis=1)
    index = where.to(tl.int64) * TILE + column[None, :]
    index = tl.min(tl.where(best == least[:, None], index, others), axis=1)
    known = inside & (other_count > 0)
    index = tl.where(known, index, 0)
    y0 = _axis(Y, index, 0, D, known, 0.0)
    y1 = _axis(Y, index, 1, D, known, 0.0)
    y2 = _axis(Y, index, 2, D, known, 0.0)
    y3 = _axis(Y, index, D - 1, D, known, 0.0)
    square = tl.where(known, _square(x0, x1, x2, x3, y0, y1, y2, y3, D), 0.0)
    tl.store(Squares + clip * points + row, square, mask=row < points)
    tl.store(Index + clip * points + row, index, mask=row < points)


@triton.jit
def _slope(square, weight, SQUARED: tl.constexpr, DOUBLE: tl.constexpr):
    """The factor of the difference of two points in the gradient; 0 where they coincide."""
    if SQUARED:
        slope = 2 * weight + square * 0
    elif DOUBLE:
        slope = tl.where(square == 0, 0.0, weight / tl.sqrt(square))
    else:
        slope = tl.where(square == 0, 0.0, tl.div_rn(weight + square * 0, tl.sqrt_rn(square)))
    return slope


@triton.jit
def runs_kernel(
    X, Y, Target, Order, OtherWeight, Runs, points, others, runs,
    D: tl.constexpr, SQUARED: tl.constexpr, DOUBLE: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Runs [B, runs, D]: the part of X's gradient from RUN sorted pairs, where all of them have the same neighbour.

    Target, Order: [B, others], the sorted neighbours in X, and the points of Y that have them.
    """
    program = tl.program_id(0)
    clip = (program // runs).to(tl.int64)
    run = (program % runs).to(tl.int64)
    Target += clip * others + run * RUN
    chosen, other = tl.load(Target), tl.load(OtherWeight + clip)
    if (chosen == tl.load(Target + RUN - 1)) & (chosen < points) & (other != 0.0):
        X += (clip * points + chosen) * D
        Y += clip * others * D
        lane = tl.arange(0, RUN)
        every = lane < RUN
        at = tl.load(Order + clip * others + run * RUN + lane)
        d0 = tl.load(X) - _axis(Y, at, 0, D, every, 0.0)
        d1 = tl.load(X + 1) - _axis(Y, at, 1, D, every, 0.0)
        d2 = tl.load(X + 2) - _axis(Y, at, 2, D, every, 0.0)
        square = d0 * d0 + d1 * d1 + d2 * d2
        d3 = d2
        if D == 4:
            d3 = tl.load(X + 3) - _axis(Y, at, 3, D, every, 0.0)
            square = square + d3 * d3
        slope = _slope(square, other, SQUARED, DOUBLE)
        Runs += (clip * runs + run) * D
        tl.store(Runs, tl.sum(d0 * slope))
        tl.store(Runs + 1, tl.sum(d1 * slope))
        tl.store(Runs + 2, tl.sum(d2 * slope))
        if D == 4:
            tl.store(Runs + 3, tl.sum(d3 * slope))


@triton.jit
def gradient_kernel(
    X, Y, Chosen, Order, Starts, Runs, XLengths, OwnWeight, OtherWeight, Gradient, points, others, blocks, runs,
    D: tl.constexpr, SQUARED: tl.constexpr, DOUBLE: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Gradient of X [B, points, D]: of distances X[i] to Y[Chosen[i]], and Y[Order[Starts[i]:Starts[i+1]]] to X[i].

    Runs: [B, runs, D], the sums over whole runs of RUN pairs. OwnWeight, OtherWeight: [B], the gradient of the value
    divided by the number of points of X and of Y; 0: no gradient.
    """
    program = tl.program_id(0)
    clip = (program // blocks).to(tl.int64)
    row = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    own, other = tl.load(OwnWeight + clip), tl.load(OtherWeight + clip)
    inside = row < tl.where(own != 0.0, tl.load(XLengths + clip), 0)
    Y += clip * others * D
    x0 = _axis(X + clip * points * D, row, 0, D, inside, 0.0)
    x1 = _axis(X + clip * points * D, row, 1, D, inside, 0.0)
    x2 = _axis(X + clip * points * D, row, 2, D, inside, 0.0)
    x3 = _axis(X + clip * points * D, row, D - 1, D, inside, 0.0)
    at = tl.load(Chosen + clip * points + row, mask=inside, other=0)
    y0 = _axis(Y, at, 0, D, inside, 0.0)
    y1 = _axis(Y, at, 1, D, inside, 0.0)
    y2 = _axis(Y, at, 2, D, inside, 0.0)
    y3 = _axis(Y, at, D - 1, D, inside, 0.0)
    slope = _slope(_square(x0, x1, x2, x3, y0, y1, y2, y3, D), own, SQUARED, DOUBLE)
    g0, g1, g2, g3 = (x0 - y0) * slope, (x1 - y1) * slope, (x2 - y2) * slope, (x3 - y3) * slope
    begin = tl.load(Starts + clip * (points + 1) + row, mask=inside, other=0)
    end = tl.load(Starts + clip * (points + 1) + row + 1, mask=inside, other=0)
    first_run = (begin + RUN - 1) // RUN
    whole = tl.maximum(end // RUN - first_run, 0)  # whole runs of this point, between pairs that are added one by one
    for step in range(tl.max(end - begin - whole * RUN)):
        place = begin + step
        place = tl.where((whole > 0) & (place >= first_run * RUN), place + whole * RUN, place)
        here = place < end
        at = tl.load(Order + clip * others + place, mask=here, other=0)
        y0 = _axis(Y, at, 0, D, here, 0.0)
        y1 = _axis(Y, at, 1, D, here, 0.0)
        y2 = _axis(Y, at, 2, D, here, 0.0)
        y3 = _axis(Y, at, D - 1, D, here, 0.0)
        slope = _slope(_square(x0, x1, x2, x3, y0, y1, y2, y3, D), other, SQUARED, DOUBLE)
        g0 = tl.where(here, g0 + (x0 - y0) * slope, g0)
        g1 = tl.where(here, g1 + (x1 - y1) * slope, g1)
        g2 = tl.where(here, g2 + (x2 - y2) * slope, g2)
        g3 = tl.where(here, g3 + (x3 - y3) * slope, g3)
    Runs += clip * runs * D
    for step in range(tl.max(whole)):
        here = step < whole
        g0 = g0 + _axis(Runs, first_run + step, 0, D, here, 0.0)
        g1 = g1 + _axis(Runs, first_run + step, 1, D, here, 0.0)
        g2 = g2 + _axis(Runs, first_run + step, 2, D, here, 0.0)
        g3 = g3 + _axis(Runs, first_run + step, D - 1, D, here, 0.0)
    Gradient += clip * points * D
    tl.store(Gradient + row * D, tl.where(inside, g0, 0.0), mask=row < points)
    tl.store(Gradient + row * D + 1, tl.where(inside, g1, 0.0), mask=row < points)
    tl.store(Gradient + row * D + 2, tl.where(inside, g2, 0.0), mask=row < points)
    if D == 4:
        tl.store(Gradient + row * D + 3, tl.where(inside, g3, 0.0), mask=row < points)


def search(x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Squares [B, N] and indices int64 [B, N] of the nearest in y [B, M, D] to x [B, N, D]; 0 beyond the lengths."""
    batch, points, dimensions = x.shape
    squares, index = x.new_empty(batch, points), x.new_empty((batch, points), dtype=torch.int64)
    block, tile = TILES[x.dtype]
    blocks = triton.cdiv(points, block)
    launch(
        search_kernel, batch * blocks, x, y, x_lengths, y_lengths, squares, index, points, y.shape[1], blocks,
        D=dimensions, BLOCK=block, TILE=tile, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return squares, index


def backward(
    gradient: Tensor, x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, nearest_in_y: Tensor,
    nearest_in_x: Tensor, squared: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `chamfer_ops.backward`."""
    x, y = x.contiguous(), y.contiguous()
    x_lengths, y_lengths = x_lengths.contiguous(), y_lengths.contiguous()
    both = (x_lengths > 0) & (y_lengths > 0)
    weights = [
        torch.where(both, gradient / lengths.clamp_min(1).to(x.dtype), 0).contiguous()
        for lengths in (x_lengths, y_lengths)
    ]
    x_gradient = _gradient(x, y, nearest_in_y, nearest_in_x, x_lengths, y_lengths, weights[0], weights[1], squared)
    y_gradient = _gradient(y, x, nearest_in_x, nearest_in_y, y_lengths, x_lengths, weights[1], weights[0], squared)
    return x_gradient, y_gradient


def _gradient(
    x: Tensor, y: Tensor, chosen: Tensor, choosing: Tensor, x_lengths: Tensor, y_lengths: Tensor, own: Tensor,
    other: Tensor, squared: bool,
) -> Tensor:  # fmt: skip
    batch, points, dimensions = x.shape
    column = torch.arange(choosing.shape[1], device=x.device)
    # Points beyond the length have no neighbour.
    target = torch.where(column < y_lengths[:, None], choosing, points).contiguous()
    target, order = target.sort(dim=1, stable=True)
    rows = torch.arange(points + 1, device=x.device).expand(batch, -1).contiguous()
    starts = torch.searchsorted(target, rows)
    runs = y.shape[1] // RUN
    sums = x.new_empty(batch, runs, dimensions)
    options = {"D": dimensions, "SQUARED": squared, "DOUBLE": x.dtype == torch.float64, "RUN": RUN}
    options |= {"num_warps": 4, "enable_fp_fusion": False}  # rounded as on the CPU
    launch(runs_kernel, batch * runs, x, y, target, order, other, sums, points, y.shape[1], runs, **options)
    result = x.new_empty(x.shape)
    blocks = triton.cdiv(points, GRADIENT_BLOCK)
    launch(
        gradient_kernel, batch * blocks, x, y, chosen.contiguous(), order, starts, sums, x_lengths, own, other, result,
        points, y.shape[1], blocks, runs, BLOCK=GRADIENT_BLOCK, **options,
    )  # fmt: skip
    return result
