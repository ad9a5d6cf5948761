"""The native operators `phys4d::nearest` and `phys4d::tree_search`: shapes (fake), gradient, autocast, CUDA form."""

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import autocast_to_float32, expect_backward_mode
from phys4d.kernels.geometry.clouds.neighbours import one_way

_SEARCHES = ("auto", "exhaustive", "tree")  # numbered as in native/src/library.cpp


def nearest_native(x: Tensor, y: Tensor, search: str = "auto") -> tuple[Tensor, Tensor]:
    """For each point of x its nearest point of y, by native code.

    Args:
        x: [N, 3] float32 or float64, CPU or CUDA.
        y: [M, 3], same dtype and device, M > 0 unless N is 0.
        search: "exhaustive" (all pairs are compared), "tree", or "auto": trees on CUDA, and on a CPU where clouds are
            large. All give the same bits.

    Returns:
        squared distance [N] in x's dtype, differentiable in x and y, and index [N] int64 into y. Of equally near points
        the lowest index is taken. A distance that is not a number never wins; a query without another gets index 0.
        The bits do not depend on the number of threads or the instruction set.

    Raises:
        ValueError: shapes, dtypes or devices other than these, an unknown search, or native code is not built.
        RuntimeError: an exhaustive search on CUDA.
    """
    available, reason = native.status()
    if not available:
        raise ValueError(f"nearest: native kernels are not available: {reason}")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != 3 or y.shape[1] != 3:
        raise ValueError(f"nearest: expected x [N, 3] and y [M, 3], got {list(x.shape)} and {list(y.shape)}")
    if x.dtype != y.dtype or x.device != y.device:
        raise ValueError(f"nearest: x is {x.dtype} on {x.device}, y is {y.dtype} on {y.device}")
    if x.shape[0] > 0 and y.shape[0] == 0:
        raise ValueError("nearest: y has no points")
    expect_backward_mode("nearest")
    if search not in _SEARCHES:
        raise ValueError(f'nearest: expected search "auto", "exhaustive" or "tree", got "{search}"')
    return torch.ops.phys4d.nearest(x, y, _SEARCHES.index(search))


def _sum_by_index(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """Adds values [N, 3] into rows [rows, 3] at index [N], in an order that does not change between runs."""
    if values.is_cuda:  # sorts the indices; index_add would use float atomics
        return values.new_zeros(rows, 3).index_put((index,), values, accumulate=True)
    return values.new_zeros(rows, 3).index_add(0, index, values)


def _save_for_backward(ctx, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    index = output[1]
    ctx.mark_non_differentiable(index)
    ctx.save_for_backward(*inputs[:2], index)


def _backward(ctx, distance_grad: Tensor, _index_grad: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
    x, y, index = ctx.saved_tensors
    x_grad = 2 * distance_grad[:, None] * (x - y[index])
    return x_grad, _sum_by_index(-x_grad, index, y.shape[0]) if ctx.needs_input_grad[1] else None, None


def _fake(x: Tensor, y: Tensor, way: int = 0) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0]), x.new_empty(x.shape[0], dtype=torch.int64)


def _fake_tree_search(x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2], dtype=torch.int64)


def _nearest_on_cuda(x: Tensor, y: Tensor, way: int = 0) -> tuple[Tensor, Tensor]:
    """`phys4d::nearest` on CUDA: torch makes the trees there, `phys4d::tree_search` walks them."""
    if way == _SEARCHES.index("exhaustive"):
        raise RuntimeError("nearest: on CUDA native code searches trees alone")
    x, y = x[None].contiguous(), y[None].contiguous()
    lengths = [torch.full((1,), cloud.shape[1], dtype=torch.int64, device=x.device) for cloud in (x, y)]
    squares, index = one_way("native", "tree", x, y, *lengths)
    return squares[0], index[0]


if native.status()[0]:
    torch.library.register_fake("phys4d::nearest", _fake)
    torch.library.register_fake("phys4d::tree_search", _fake_tree_search)
    if native.compiled_for("phys4d::tree_search", "cuda"):
        torch.library.impl("phys4d::nearest", "cuda", _nearest_on_cuda)
    torch.library.register_autograd("phys4d::nearest", _backward, setup_context=_save_for_backward)
    autocast_to_float32("phys4d::nearest")
