"""Native (C++ and CUDA) kernels behind the torch stable ABI; absent where they were not built.

`status()` says whether they are here and why not. Importing this package loads the shared object, if there
is one, and registers what torch needs beside the kernels: shapes (fake), gradients and autocast.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["nearest", "status"]

_FOLDER = Path(__file__).parent
_WAYS = ("auto", "exhaustive", "tree")  # numbered as in src/library.cpp


def _load() -> tuple[bool, str]:
    """Loads _C.so; (whether it is usable, one line on what was built or why it is not here)."""
    record, library = _FOLDER / "_build.json", _FOLDER / "_C.so"
    outcome = json.loads(record.read_text())["outcome"] if record.exists() else "not built: never attempted"
    if not library.exists():
        return False, outcome
    try:
        torch.ops.load_library(str(library))
    except OSError as fault:
        return False, f"{library.name} does not load into torch {torch.__version__}: {fault}"
    return True, outcome


_STATUS = _load()


def status() -> tuple[bool, str]:
    """Whether the native kernels are usable, and one line that says what was built or why they are not."""
    return _STATUS


def nearest(x: Tensor, y: Tensor, search: str = "auto") -> tuple[Tensor, Tensor]:
    """For each point of x its nearest point of y; through trees or by comparing all with all, with the same bits.

    Args:
        x: [N, 3] float32 or float64, CPU or CUDA.
        y: [M, 3], same dtype and device, M > 0 unless N is 0.
        search: "exhaustive", "tree" or "auto": trees on CUDA, and on a CPU where clouds are large.

    Returns:
        squared distance [N] in x's dtype, differentiable in x and y, and index [N] int64 into y. Ties go to
        the lowest index. A distance that is not a number never wins; a query with no other gets index 0.
        The bits do not depend on the number of threads or the instruction set.

    Raises:
        ValueError: shapes, dtypes or devices other than these, an unknown search; or the kernels are not built.
        RuntimeError: an exhaustive search on CUDA.
    """
    available, reason = _STATUS
    if not available:
        raise ValueError(f"nearest: native kernels are not available: {reason}")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != 3 or y.shape[1] != 3:
        raise ValueError(f"nearest: expected x [N, 3] and y [M, 3], got {list(x.shape)} and {list(y.shape)}")
    if x.dtype != y.dtype or x.device != y.device:
        raise ValueError(f"nearest: x is {x.dtype} on {x.device}, y is {y.dtype} on {y.device}")
    if x.shape[0] > 0 and y.shape[0] == 0:
        raise ValueError("nearest: y has no points")
    if search not in _WAYS:
        raise ValueError(f'nearest: expected search "auto", "exhaustive" or "tree", got "{search}"')
    return torch.ops.phys4d.nearest(x, y, _WAYS.index(search))


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


def _nearest_through_trees(x: Tensor, y: Tensor, way: int = 0) -> tuple[Tensor, Tensor]:
    """`phys4d::nearest` on CUDA: torch makes the trees there, `phys4d::tree_search` walks them."""
    from phys4d.kernels.geometry.clouds.neighbours import one_way  # which imports this package

    if way == _WAYS.index("exhaustive"):
        raise RuntimeError("nearest: on CUDA native code searches trees alone")
    x, y = x[None].contiguous(), y[None].contiguous()
    lengths = [torch.full((1,), cloud.shape[1], dtype=torch.int64, device=x.device) for cloud in (x, y)]
    squares, index = one_way("native", "tree", x, y, *lengths)
    return squares[0], index[0]


if _STATUS[0]:
    torch.library.register_fake("phys4d::nearest", _fake)
    torch.library.register_fake("phys4d::tree_search", _fake_tree_search)
    if torch._C._dispatch_has_kernel_for_dispatch_key("phys4d::tree_search", "CUDA"):
        torch.library.impl("phys4d::nearest", "cuda", _nearest_through_trees)
    torch.library.register_autograd("phys4d::nearest", _backward, setup_context=_save_for_backward)
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast("phys4d::nearest", _device, torch.float32)
