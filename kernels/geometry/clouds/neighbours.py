"""The choice of backend and search for nearest neighbours. Exhaustive and tree searches find the same neighbours.

    CPU, native            k-d trees for large clouds, in C++; else exhaustive
    CUDA, native           trees of boxes, one thread per query
    CUDA, Triton           trees of boxes, one warp per 32 queries, for large clouds; else exhaustive
    any device, reference  exhaustive, a chunk of points at a time
"""

from typing import Literal

import torch
from torch import Tensor

from phys4d.kernels.dispatch import INTERPRETED, choose_backend
from phys4d.kernels.geometry.clouds import chamfer_kernels, tree_kernels
from phys4d.kernels.geometry.clouds.point_tree import PointTree, grow_both

Search = Literal["auto", "exhaustive", "tree"]
SEARCHES = ("auto", "exhaustive", "tree")
# Estimated from rooflines of an H200, not measured: building trees takes some 0.3 ms of kernel launches and 3 ns per
# point, exhaustive search 0.3 ps per pair.
_PAIRS, _POINTS = 1 << 30, 1 << 13


def plan(name: str, backend: str, search: str, x: Tensor, y: Tensor) -> tuple[str, str]:
    """The backend for clouds x [B, N, D] and y [B, M, D], and the search: "exhaustive", "tree", or "auto" where native
    CPU code chooses by size.

    Raises:
        ValueError: an unknown backend or search.
        RuntimeError: one asked for by name that cannot serve, with the reason.
    """
    if search not in SEARCHES:
        raise ValueError(f'search: expected "auto", "exhaustive" or "tree", got "{search}"')
    cuda = x.device.type == "cuda"
    if search == "auto" and backend in ("auto", "triton") and (cuda or INTERPRETED):
        search = "tree" if worth_trees(len(x), x.shape[1], y.shape[1]) else "exhaustive"
    unable = {}
    if search == "tree":
        unable["reference"] = 'it compares all with all, not search="tree"'
    if search == "exhaustive" and cuda:
        unable["native"] = 'on CUDA it searches trees, not search="exhaustive"'
    served = choose_backend(backend, name, x, on_cuda="phys4d::tree_search", unable=unable)
    if search == "auto" and (served == "reference" or cuda):
        search = "exhaustive" if served == "reference" else "tree"
    return served, search


def worth_trees(batch: int, n: int, m: int) -> bool:
    """Whether on a GPU a tree search of `batch` pairs of clouds of n and m points is faster than an exhaustive one."""
    return min(n, m) >= _POINTS and batch * n * m >= _PAIRS


def one_way(
    backend: str, search: str, x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Squares [B, N] and indices int64 [B, N] of the nearest in y [B, M, D] to x [B, N, D]; 0 beyond the lengths.

    backend: "native" (with trees) or "triton". All tensors are contiguous.
    """
    if search == "exhaustive":
        return chamfer_kernels.search(x, y, x_lengths, y_lengths)
    x_tree, y_tree = grow_both(x, y, x_lengths, y_lengths)
    return _through_trees(backend, x, x_lengths, x_tree, y, y_lengths, y_tree)


def both_ways(
    backend: str, search: str, x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`one_way` from x to y and from y to x."""
    if search == "exhaustive":
        return *chamfer_kernels.search(x, y, x_lengths, y_lengths), *chamfer_kernels.search(y, x, y_lengths, x_lengths)
    x_tree, y_tree = grow_both(x, y, x_lengths, y_lengths)
    return (
        *_through_trees(backend, x, x_lengths, x_tree, y, y_lengths, y_tree),
        *_through_trees(backend, y, y_lengths, y_tree, x, x_lengths, x_tree),
    )


def _through_trees(
    backend: str, x: Tensor, x_lengths: Tensor, x_tree: PointTree, y: Tensor, y_lengths: Tensor, y_tree: PointTree
) -> tuple[Tensor, Tensor]:
    find = torch.ops.phys4d.tree_search if backend == "native" else tree_kernels.search
    return find(x, x_lengths, x_tree.order.flatten(1), y, y_lengths, *y_tree)
