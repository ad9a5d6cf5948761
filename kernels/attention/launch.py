"""What the host side of every attention kernel shares: which machine, which precision, which strides."""

import math
from collections.abc import Container
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from phys4d.kernels.attention.rows import Launch
from phys4d.kernels.attention.tiles import split

INTERPRETED = bool(triton.knobs.runtime.interpret)
SUPPORTED = (torch.bfloat16, torch.float16, torch.float32)


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


def strides(*tensors: Tensor) -> tuple[int, ...]:
    """Batch, token and head strides of tensors [B, S, heads, D], one after the other, in units of their `alignment`."""
    align = alignment(*tensors)
    return tuple(stride // align for tensor in tensors for stride in tensor.stride()[:3])


def descriptors(place: Launch, dim: int, *tensors: Tensor) -> bool:
    """Whether tiles can be fetched by the tensor memory accelerator: tokens in a row, strides of 16 bytes, sm_90."""
    fits = all(t.data_ptr() % 16 == 0 and all(s * t.element_size() % 16 == 0 for s in t.stride()[:3]) for t in tensors)
    return fits and place.other.step == 1 and dim >= 16 and (INTERPRETED or architecture() >= 90)


def streams(used: bool, dim: int, block: int, *tensors: Tensor) -> list[Any]:
    """Descriptors of both parts of the head dimension for tensors [B, S, heads, D], or the tensors where not used."""
    found: list[Any] = []
    for tensor in tensors:
        for width in split(dim):
            usable = used and width
            box = [1, block, 1, width]
            found.append(TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), box) if usable else tensor)
    return found


def run(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    """Launches a kernel on a one-dimensional grid, which takes 2^31 - 1 programs; nothing where there are none."""
    if programs >= 1 << 31:
        raise ValueError(f"{programs} programs of {kernel.__name__}: at most {(1 << 31) - 1}")
    if programs:
        kernel[(programs,)](*args, **options)


def alignment(*tensors: Tensor) -> int:
    """The largest power of two, at most 16, that divides every batch, token and head stride of [B, S, heads, D]."""
    return math.gcd(16, *(stride for tensor in tensors for stride in tensor.stride()[:3]))
