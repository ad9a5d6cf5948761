"""Nearest neighbours on the GPU through the trees of `point_tree`, in Triton: one tree traversal per warp of queries.

A program handles 32 queries that are consecutive on the curve, one per lane, and traverses the implicit tree of the
other cloud as kernels/native/src/tree_search.h does for one query: four bits per level mark the children that are not
visited yet, and a node is visited if it may hold the nearest point of any lane. So all lanes read the same addresses
without divergent branches; the cost is that every lane is compared with all points that any lane needs.

Queries are the last dimension of every tile: a lane holds all boxes, or points, that its query is compared with, and
the minimum needs no exchange between lanes. Multiplications are not fused with additions: bounds and distances have the
bits of the exhaustive search, and a box with a bound above the best distance holds no nearer point.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from phys4d.kernels.dispatch import launch
from phys4d.kernels.geometry.clouds.point_tree import CHILDREN, NO_POINT, first_leaf_of

QUERIES = 32  # of a program, which is one warp


@triton.jit
def _gaps(Sides, x, child, axis: tl.constexpr, D: tl.constexpr, CHILDREN: tl.constexpr):
    """Squared distance of each query from each child's box along one axis; 0 inside."""
    low = tl.load(Sides + axis * CHILDREN + child)
    high = tl.load(Sides + (D + axis) * CHILDREN + child)
    gap = tl.maximum(tl.maximum(low - x[None, :], x[None, :] + high), 0.0)
    return gap * gap


@triton.jit
def _differences(Points, x, child, axis: tl.constexpr, LEAF: tl.constexpr):
    """Squared distance of each query from CHILDREN points of a leaf along one axis."""
    difference = x[None, :] - tl.load(Points + axis * LEAF + child)
    return difference * difference


@triton.jit
def search_kernel(
    X, XLengths, XOrder, Y, YLengths, Points, Order, Boxes, First, Squares, Index,
    points, others, slots, leaves, groups, first_leaf, blocks,
    D: tl.constexpr, LEAF: tl.constexpr, CHILDREN: tl.constexpr, LARGEST: tl.constexpr, NO_POINT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Squares and Index [B, points] of the nearest in Y [B, others, D] to X [B, points, D]; 0 in the padding.

    XOrder: [B, slots], the order of the queries. Points, Order, Boxes, First: Y's `PointTree`.
    """
    program = tl.program_id(0)
    clip = (program // blocks).to(tl.int64)
    slot = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(XOrder + clip * slots + slot, mask=slot < slots, other=points).to(tl.int64)
    inside = row < points
    known = (row < tl.load(XLengths + clip)) & (tl.load(YLengths + clip) > 0) & inside
    X += (clip * points + row) * D
    x0 = tl.load(X, mask=known, other=0.0)
    x1 = tl.load(X + 1, mask=known, other=0.0)
    x2 = tl.load(X + 2, mask=known, other=0.0)
    x3 = tl.load(X + D - 1, mask=known, other=0.0)
    finite = (tl.abs(x0) <= LARGEST) & (tl.abs(x1) <= LARGEST) & (tl.abs(x2) <= LARGEST) & (tl.abs(x3) <= LARGEST)
    best = tl.where(known & finite, tl.full((BLOCK,), LARGEST, X.dtype.element_ty), -1.0)  # -1: the lane visits no node
    found = tl.full((BLOCK,), NO_POINT, tl.int32)
    every_lane = tl.zeros((1, BLOCK), tl.int32)
    number = tl.arange(0, CHILDREN)
    child = number[:, None] + every_lane
    Points += clip * leaves * (D * LEAF)
    Order += clip * leaves * LEAF
    Boxes += clip * groups * (2 * D * CHILDREN)
    First += clip * groups * CHILDREN
    node = tl.full((), 0, tl.int32)
    left = tl.full((), (1 << CHILDREN) - 1, tl.int32)  # bits of the node's children that are not visited yet
    trail = tl.full((), 0, tl.int64)  # the same bits of its ancestors, the parent's lowest
    while (left != 0) | (trail != 0):
        if left == 0:
            node = (node - 1) // CHILDREN
            left = (trail & ((1 << CHILDREN) - 1)).to(tl.int32)
            trail = trail >> CHILDREN
        else:
            sides = Boxes + node.to(tl.int64) * (2 * D * CHILDREN)
            bound = _gaps(sides, x0, child, 0, D, CHILDREN) + _gaps(sides, x1, child, 1, D, CHILDREN)
            bound = bound + _gaps(sides, x2, child, 2, D, CHILDREN)
            if D == 4:
                bound = bound + _gaps(sides, x3, child, 3, D, CHILDREN)
            first = tl.load(First + node.to(tl.int64) * CHILDREN + child)
            wanted = (bound < best[None, :]) | ((bound == best[None, :]) & (first < found[None, :]))
            wanted = wanted & (((left >> child) & 1) != 0)
            # The least bound of each child over the lanes that need it.
            nearest = tl.min(tl.where(wanted, bound, float("inf")), axis=1)
            left = tl.sum(tl.where(nearest < float("inf"), 1 << number, 0), axis=0)
            if left != 0:
                next_child = tl.argmin(nearest, axis=0)
                left = left & ~(1 << next_child)
                down = node * CHILDREN + 1 + next_child
                if down < first_leaf:
                    trail = (trail << CHILDREN) | left.to(tl.int64)
                    node = down
                    left = tl.full((), (1 << CHILDREN) - 1, tl.int32)
                else:
                    leaf = (down - first_leaf).to(tl.int64)
                    for part in tl.static_range(LEAF // CHILDREN):  # tiles as of boxes: no data moves between lanes
                        rows = Points + leaf * (D * LEAF) + part * CHILDREN
                        square = _differences(rows, x0, child, 0, LEAF) + _differences(rows, x1, child, 1, LEAF)
                        square = square + _differences(rows, x2, child, 2, LEAF)
                        if D == 4:
                            square = square + _differences(rows, x3, child, 3, LEAF)
                        least = tl.min(square, axis=0)
                        index = tl.load(Order + leaf * LEAF + part * CHILDREN + child)
                        index = tl.min(tl.where(square == least[None, :], index, NO_POINT), axis=0)
                        nearer = (least < best) | ((least == best) & (index < found))
                        best = tl.where(nearer, least, best)
                        found = tl.where(nearer, index, found)
    lost = known & (found == NO_POINT)  # all distances are NaN or infinite: index 0
    Y += clip * others * D + row * 0
    d0 = x0 - tl.load(Y, mask=lost, other=0.0)
    d1 = x1 - tl.load(Y + 1, mask=lost, other=0.0)
    d2 = x2 - tl.load(Y + 2, mask=lost, other=0.0)
    square = d0 * d0 + d1 * d1 + d2 * d2
    if D == 4:
        d3 = x3 - tl.load(Y + 3, mask=lost, other=0.0)
        square = square + d3 * d3
    square = tl.where(lost, square, tl.where(known, best, 0.0))
    tl.store(Squares + clip * points + row, square, mask=inside)
    tl.store(Index + clip * points + row, tl.where(known & (found != NO_POINT), found, 0).to(tl.int64), mask=inside)


def search(
    x: Tensor, x_lengths: Tensor, x_order: Tensor, y: Tensor, y_lengths: Tensor, points: Tensor, order: Tensor,
    boxes: Tensor, first: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Squares [B, N] and indices int64 [B, N] of the nearest in y [B, M, D] to x [B, N, D]; 0 beyond the lengths.

    x_order: int32 [B, S], every index below N once, spatial neighbours together: the `order` of x's tree.
    points, order, boxes, first: y's `PointTree`.
    """
    batch, queries, dimensions = x.shape
    squares, index = x.new_empty(batch, queries), x.new_empty((batch, queries), dtype=torch.int64)
    slots, leaves, leaf = x_order.shape[1], points.shape[1], points.shape[3]
    blocks = triton.cdiv(slots, QUERIES)
    launch(
        search_kernel, batch * blocks, x, x_lengths, x_order, y, y_lengths, points, order, boxes, first, squares, index,
        queries, y.shape[1], slots, leaves, boxes.shape[1], first_leaf_of(leaves), blocks,
        D=dimensions, LEAF=leaf, CHILDREN=CHILDREN, LARGEST=torch.finfo(x.dtype).max, NO_POINT=NO_POINT, BLOCK=QUERIES,
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    return squares, index
