"""Who may compute a call of `attention`, in the order in which "auto" asks."""

from phys4d.kernels.attention.backends import flash_attn, flex, ours, plain, sdpa, xformers
from phys4d.kernels.attention.backends.backend import Backend, Choice

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        ours.TRITON, sdpa.SDPA, *sdpa.PARTICULAR, *flash_attn.GENERATIONS, xformers.XFORMERS, flex.FLEX, plain.REFERENCE
    )
}  # fmt: skip

__all__ = ["BACKENDS", "Backend", "Choice"]
