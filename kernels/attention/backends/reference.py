"""The definition as a backend: serves every call, with every score in memory."""

from torch import Tensor

from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.reference import attention_reference


def _run(call: Call) -> tuple[Tensor, Tensor | None]:
    return attention_reference(
        call.q, call.k, call.v,
        grid=call.grid, pattern=call.pattern, text=call.text, key_lengths=call.key_lengths, mask=call.mask,
        scale=call.scale,
    )  # fmt: skip


REFERENCE = Backend("reference", "plain torch, every score materialised", lambda call: None, _run)
