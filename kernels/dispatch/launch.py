"""Launching Triton kernels: on the device of the tensors, with grids that are checked, and strides in units that show
the compiler how wide it may read."""

import contextlib
import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

_FIRST_AXIS, _OTHER_AXES = (1 << 31) - 1, 65_535  # programs along an axis of a CUDA grid


def launch(kernel: Any, grid: int | tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launches a Triton kernel on the device of its tensors; does nothing where the grid has no programs.

    Args:
        kernel: a function decorated with `triton.jit`.
        grid: programs along each of one to three axes.
        args, options: of the kernel, and Triton's own (num_warps, ...). The first argument is a tensor.

    Raises:
        ValueError: more programs along an axis than CUDA takes.
    """
    sizes = (grid,) if isinstance(grid, int) else grid
    if sizes[0] > _FIRST_AXIS or (len(sizes) > 1 and max(sizes[1:]) > _OTHER_AXES):
        raise ValueError(
            f"{kernel.__name__}: a grid of {sizes} programs; at most {_FIRST_AXIS} along the first axis and "
            f"{_OTHER_AXES} along the others"
        )
    if 0 not in sizes:
        with on_device_of(args[0]):
            kernel.run(*args, grid=sizes, warmup=False, **options)  # kernel[sizes](...) would pack all arguments again


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the CUDA device of the tensor the current one, on which Triton compiles and launches."""
    if tensor.is_cuda and (number := tensor.get_device()) != torch.cuda.current_device():
        return torch.cuda.device(number)
    return _CURRENT


_CURRENT = contextlib.nullcontext()


def aligned(strides: list[int]) -> tuple[int, list[int]]:
    """The largest power of two, at most 16, that divides all strides, and the strides in units of it.

    A kernel that multiplies strides by this constant shows the compiler that its addresses are aligned.
    """
    align = math.gcd(16, *strides)
    return align, [stride // align for stride in strides]


def aligned_strides(*tensors: Tensor) -> tuple[int, list[int]]:
    """`aligned` of the batch, token and head strides of tensors [B, S, heads, D], one tensor after the other."""
    return aligned([stride for tensor in tensors for stride in tensor.stride()[:3]])
