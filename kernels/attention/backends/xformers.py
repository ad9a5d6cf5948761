"""xformers.ops.memory_efficient_attention: dense rows, bfloat16 and float16."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention.backends import dense_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.backends.flash_attn import dense_refusal
from phys4d.kernels.attention.call import Call

_ROWS = 1 << 15  # it fails at 65,536 sequences


@functools.cache
def _function() -> Callable[..., Any] | str:
    try:
        from xformers.ops import memory_efficient_attention
    except (ImportError, OSError) as fault:
        return f"xformers cannot be imported ({fault}); pip install phys4d[xformers]"
    return memory_efficient_attention


def _refusal(call: Call) -> str | None:
    reason = dense_refusal(call)
    if reason is not None:
        return reason
    if call.rows is not None and call.rows.causal:
        return "causal rows are not mapped to its biases"
    if call.training and torch.are_deterministic_algorithms_enabled():
        return "its backward is not deterministic, and deterministic algorithms are asked for"
    function = _function()
    return function if isinstance(function, str) else None


def _run(call: Call) -> tuple[Tensor, None]:
    function = _function()
    assert not isinstance(function, str)

    def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> tuple[Tensor, None]:
        parts = zip(q.split(_ROWS), k.split(_ROWS), v.split(_ROWS), strict=True)
        return torch.cat([function(*part, scale=call.scale) for part in parts]), None

    return dense_rows.run(call, dense)[0], None


XFORMERS = Backend(
    "xformers", "xformers on dense rows", _refusal, _run, lambda call: "not measured on this GPU"
)
