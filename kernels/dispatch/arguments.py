"""Checks of the tensors of a call, a microsecond or less each, and integers in the form in which kernels read them."""

import torch
from torch import Tensor

# The floating dtypes that operators compute with. float8 has no arithmetic in torch: convert it first.
FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def expect_one_device(operation: str, **tensors: Tensor | None) -> None:
    """Raises ValueError unless all tensors of a call are on one device; None stands for an absent tensor.

    A kernel reads addresses, whatever device they belong to, and of a tensor without data (device "meta") there is
    none.

    Args:
        operation: its name, for the message.
        tensors: by the names of the arguments; the first one determines the device.
    """
    first, device = "", None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if device is None:
            first, device = name, tensor.device
        elif tensor.device != device:
            raise ValueError(
                f"{operation}: expected all tensors on one device, got {first} on {device} and {name} "
                f"on {tensor.device}"
            )


def expect_dtypes(operation: str, **tensors: Tensor | None) -> None:
    """Raises ValueError unless all tensors have one of the dtypes `FLOATING`; None stands for an absent tensor."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in FLOATING:
            raise ValueError(
                f"{operation}: {name}: expected float16, bfloat16, float32 or float64, "
                f"got {str(tensor.dtype).removeprefix('torch.')}"
            )


def contiguous_integers(integers: Tensor | None) -> Tensor | None:
    """Integers as kernels read them, contiguous int32 or int64: the tensor itself, or a copy. None stays None."""
    if integers is None:
        return None
    if integers.dtype not in (torch.int32, torch.int64):
        integers = integers.to(torch.int64)
    return integers.contiguous()


def with_rows(x: Tensor) -> Tensor:
    """x [..., N] whose last dimension is contiguous: itself, or a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
