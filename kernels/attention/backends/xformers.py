"""xformers.ops.memory_efficient_attention: dense rows, bfloat16 and float16."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention.backends import dense_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.backends.flash_attn import dense_refusal
from phys4d.kernels.attention.backends.sdpa import warned_backward
from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import compute_capability, constant_for_process

_ROWS = 1 << 15  # it fails at 65,536 sequences


@constant_for_process
def _function() -> Callable[..., Any] | str:
    try:
        from xformers.ops import memory_efficient_attention
    except (ImportError, OSError) as fault:
        return f"xformers cannot be imported ({fault}); pip install phys4d[xformers]"
    return memory_efficient_attention  # type: ignore[no-any-return]


def _limits(call: Call) -> str | None:
    reason = dense_refusal(call)
    if reason is not None:
        return reason
    if call.causal:
        return "causal rows are not mapped to its biases"
    if call.grouped:
        return "heads of queries that share keys are not mapped to its five dimensions"
    dim = call.q.shape[-1]
    if dim % 8 or dim > 256:
        return f"it takes head dimensions that are multiples of 8 up to 256, not {dim}"
    function = _function()
    return function if isinstance(function, str) else None


def _varies(call: Call) -> str | None:
    """With deterministic algorithms on it takes its CUTLASS backward (xformers/ops/fmha/cutlass.py).

    That one is torch's "efficient", made for compute capability up to 9.0, and deterministic where torch makes it so.
    """
    if not call.training:
        return None
    if compute_capability(call.q.device.index) > 90:
        return "its deterministic backward is made for compute capability up to 9.0"
    return warned_backward(call)


def _run(call: Call) -> tuple[Tensor, None]:
    function = _function()
    assert not isinstance(function, str)

    def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool) -> tuple[Tensor, None]:
        parts = zip(q.split(_ROWS), k.split(_ROWS), v.split(_ROWS), strict=True)
        return torch.cat([function(*part, scale=call.scale) for part in parts]), None

    return dense_rows.run(call, dense)[0], None


XFORMERS = Backend(
    "xformers", "xformers on dense rows", _limits, _run, lambda call: "not measured on this GPU", _varies
)
