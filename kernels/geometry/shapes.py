"""Shape checks of public functions: one line that names the argument, the expected shape and the one it has."""

from collections.abc import Sequence

import torch
from torch import Tensor


def expect_shape(name: str, tensor: Tensor, expected: Sequence[int | str]) -> None:
    """Raises ValueError unless `tensor` has the expected shape; a string stands for any size."""
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(expected) and all(
        isinstance(want, str) or want == got for want, got in zip(expected, sizes, strict=True)
    )
    if not fits:
        wanted = "[" + ", ".join(str(size) for size in expected) + "]"
        raise ValueError(f"{name}: expected shape {wanted}, got {list(sizes)}")


def expect_floating(name: str, tensor: Tensor) -> None:
    """Raises ValueError unless `tensor` is float32 or float64: half precision is off by centimetres."""
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: expected float32 or float64, got {str(tensor.dtype).removeprefix('torch.')}")


def expect_mask(name: str, tensor: Tensor, expected: Sequence[int | str]) -> None:
    """Raises ValueError unless `tensor` is a bool mask of the expected shape."""
    if tensor.dtype != torch.bool:
        raise ValueError(f"{name}: expected a bool mask, got {str(tensor.dtype).removeprefix('torch.')}")
    expect_shape(name, tensor, expected)
