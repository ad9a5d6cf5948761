"""The backends of `attention`, in the order in which "auto" tries them."""

from phys4d.kernels.attention.backends import flash_attn, flex, int8, natten, reference, sdpa, triton, xformers
from phys4d.kernels.attention.backends.backend import Backend, BackendChoice

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        triton.TRITON, sdpa.SDPA, *sdpa.NAMED_KERNELS, *flash_attn.GENERATIONS, xformers.XFORMERS, natten.NATTEN,
        flex.FLEX, flex.FLEX_FLASH, int8.INT8, reference.REFERENCE,
    )
}  # fmt: skip

__all__ = ["BACKENDS", "Backend", "BackendChoice"]
