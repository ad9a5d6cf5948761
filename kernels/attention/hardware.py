"""What attention kernels need to know of the GPU and of their tensors: generation, precision, TMA descriptors."""

from collections.abc import Container
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from phys4d.kernels.attention.row_launches import RowLaunch
from phys4d.kernels.attention.tiles import split
from phys4d.kernels.dispatch import INTERPRETED

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def architecture() -> int:
    """Compute capability as a number (90 for Hopper) of the device that kernels are launched on; 0: interpreter."""
    if INTERPRETED:
        return 0
    return int(triton.runtime.driver.active.get_current_target().arch)


def generation(dtype: torch.dtype, known: Container[str]) -> str:
    """Which of the known lists of options holds: "single" for float32, else that of the newest GPUs not newer."""
    if dtype == torch.float32:
        return "single"
    number = architecture()
    if number >= 100 and "blackwell" in known:
        return "blackwell"
    return "hopper" if number >= 90 else "ampere"


def precision(dtype: torch.dtype) -> str:
    """How products are taken: float32 in full, never TF32."""
    return "ieee" if dtype == torch.float32 else "tf32"


def parts(dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """(DA, DB) of a head dimension (see `tiles`).

    A part of float32 has at most 128 channels: exact products keep a whole row of a part in the registers of a thread.
    """
    return split(dim, 128 if dtype == torch.float32 else 256)


def descriptors(place: RowLaunch, dim: int, *tensors: Tensor) -> bool:
    """Whether tiles can be fetched by the tensor memory accelerator (TMA).

    It needs tokens of a row one after the other, tensors that a descriptor can describe, and sm_90.
    """
    fits = place.other.token_step == 1 and dim >= 16 and all(describable(tensor) for tensor in tensors)
    return fits and (INTERPRETED or architecture() >= 90)


def describable(tensor: Tensor) -> bool:
    """Whether a TMA descriptor can describe a tensor [B, S, heads, D]; kernels read others through pointers.

    It needs contiguous channels, and an address and strides that are multiples of 16 bytes and not 0.
    """
    size = tensor.element_size()
    *strides, last = tensor.stride()
    return last == 1 and tensor.data_ptr() % 16 == 0 and all(s > 0 and s * size % 16 == 0 for s in strides)


def streams(used: bool, dim: int, block: int, *tensors: Tensor) -> list[Any]:
    """TMA descriptors of both parts of the head dimension for tensors [B, S, heads, D]; not `used`: the tensors."""
    found: list[Any] = []
    for tensor in tensors:
        for width in parts(dim, tensor.dtype):
            usable = used and width
            box = [1, block, 1, width]
            found.append(TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), box) if usable else tensor)
    return found
