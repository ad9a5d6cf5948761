"""The three generations of flash-attn that a user may have installed: dense rows, bfloat16 and float16."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention.backends import dense_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call

# Name -> module with flash_attn_func, lowest and highest compute capability that it serves, how to install it.
_MODULES = {
    "flash-attn-2": ("flash_attn", (80, 120), "pip install flash-attn"),
    "flash-attn-3": ("flash_attn_interface", (90, 90), "built from the hopper/ folder of flash-attention"),
    "flash-attn-4": ("flash_attn.cute.interface", (90, 120), "pip install phys4d[flash]"),
}


@functools.cache
def _function(name: str) -> Callable[..., Any] | str:
    """flash_attn_func, or why it cannot be had."""
    module, _, how = _MODULES[name]
    try:
        return importlib.import_module(module).flash_attn_func
    except (ImportError, AttributeError, OSError) as fault:
        return f"{module} cannot be imported ({fault}); {how}"


def dense_refusal(call: Call) -> str | None:
    """Why a backend of dense attention in 16 bits on CUDA cannot serve the call, None if it can."""
    if not call.q.is_cuda:
        return f"it runs on CUDA, the tensors are on {call.q.device.type}"
    if call.q.dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 and float16, not {call.q.dtype}"
    if not call.pattern.sees_all and call.rows is None:
        return f"it takes dense rows, which {call.pattern} has none of"
    if call.key_lengths is not None:
        return "key_lengths would need its variable-length form"
    if call.rows is not None and call.rows.causal and call.text_tokens:
        return "a causal row after a text is no causal attention of its own"
    if call.return_lse:
        return "its log-sum-exp is not differentiable"
    return None


def _refusal(call: Call, name: str) -> str | None:
    reason = dense_refusal(call)
    if reason is not None:
        return reason
    if name != "flash-attn-2" and call.training and torch.are_deterministic_algorithms_enabled():
        return "its deterministic backward is not asked for here, and deterministic algorithms are asked for"
    lowest, highest = _MODULES[name][1]
    major, minor = torch.cuda.get_device_capability(call.q.device)
    if not lowest <= 10 * major + minor <= highest:
        return f"it is made for compute capability {lowest} to {highest}, this device has {major}.{minor}"
    function = _function(name)
    return function if isinstance(function, str) else None


def _run(call: Call, name: str) -> tuple[Tensor, None]:
    function = _function(name)
    assert not isinstance(function, str)
    causal = call.rows is not None and call.rows.causal
    options = {"deterministic": torch.are_deterministic_algorithms_enabled()} if name == "flash-attn-2" else {}

    def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> tuple[Tensor, None]:
        out = function(q, k, v, softmax_scale=call.scale, causal=causal, **options)
        return out[0] if isinstance(out, tuple) else out, None

    return dense_rows.run(call, dense)[0], None


GENERATIONS = tuple(
    Backend(
        name,
        f"{name} on dense rows",
        lambda call, name=name: _refusal(call, name),  # type: ignore[misc]
        lambda call, name=name: _run(call, name),  # type: ignore[misc]
        lambda call: "not measured on this GPU",
    )
    for name in _MODULES
)
