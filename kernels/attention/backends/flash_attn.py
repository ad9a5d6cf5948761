"""The three generations of flash-attn that a user may have installed: dense rows, bfloat16 and float16."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention.backends import dense_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import compute_capability, constant_for_process, determinism

# Name -> module with flash_attn_func, lowest and highest compute capability that it serves, how to install it.
_MODULES = {
    "flash-attn-2": ("flash_attn", (80, 120), "pip install flash-attn"),
    "flash-attn-3": ("flash_attn_interface", (90, 90), "built from the hopper/ folder of flash-attention"),
    "flash-attn-4": ("flash_attn.cute.interface", (90, 120), "pip install phys4d[flash]"),
}


@constant_for_process
def flash_attn_func(name: str) -> Callable[..., Any] | str:
    """The function of this generation, or why it cannot be had."""
    module, _, how = _MODULES[name]
    try:
        return importlib.import_module(module).flash_attn_func  # type: ignore[no-any-return]
    except (ImportError, AttributeError, OSError) as fault:
        return f"{module} cannot be imported ({fault}); {how}"


def dense_refusal(call: Call) -> str | None:
    """Why a backend of dense attention in 16 bits on CUDA cannot serve the call, None if it can."""
    if not call.q.is_cuda:
        return f"it runs on CUDA, the tensors are on {call.q.device.type}"
    if call.q.dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 and float16, not {call.q.dtype}"
    if not call.one_row and call.rows is None:
        return f"it takes dense rows, which {call.pattern} has none of"
    if call.key_lengths is not None:
        return "key_lengths would need its variable-length form"
    if call.mask is not None:
        return "it takes no mask"
    if call.causal and not call.one_row and call.text_tokens:
        return "a causal row after a text is no causal attention of its own"
    if call.causal and call.one_row and call.q.shape[1] != call.k.shape[1]:
        return "it aligns a causal mask of fewer queries than keys at the bottom right"
    if call.asymmetric:
        return f"it takes values as wide as keys, not {call.v.shape[3]} beside {call.k.shape[3]} channels"
    if call.return_lse:
        return "its log-sum-exp is not differentiable"
    return None


def generation_refusal(call: Call, name: str) -> str | None:
    """Why a generation cannot run on the call's device, with its heads, or at all; None if it can."""
    lowest, highest = _MODULES[name][1]
    capability, dim = compute_capability(call.q.device.index), call.q.shape[-1]
    if not lowest <= capability <= highest:
        return f"it is made for compute capability {lowest} to {highest}, this device has {capability}"
    if name == "flash-attn-4" and (dim % 8 or (capability >= 100 and 128 < dim < 256)):
        return f"it takes head dimensions that are multiples of 8, on this device up to 128 or 256, not {dim}"
    if dim > 256:
        return f"it takes head dimensions up to 256, not {dim}"
    function = flash_attn_func(name)
    return function if isinstance(function, str) else None


def _limits(call: Call, name: str) -> str | None:
    return dense_refusal(call) or generation_refusal(call, name)


def _varies(call: Call, name: str) -> str | None:
    """With deterministic=True, 2 and 4 give bit-equal gradients, 4 not on 12.x; the dq of 3 varies all the same.

    github.com/Dao-AILab/flash-attention: issue 2244 of generation 3, the assertion in 4's `_flash_attn_bwd`.
    """
    if not call.training:
        return None
    if name == "flash-attn-3":
        return "its gradients vary even with deterministic=True"
    if name == "flash-attn-4" and compute_capability(call.q.device.index) >= 120:
        return "it has no deterministic backward on compute capability 12.x"
    return None


def _run(call: Call, name: str) -> tuple[Tensor, None]:
    function = flash_attn_func(name)
    assert not isinstance(function, str)
    options = {"deterministic": True} if determinism() != "off" and _varies(call, name) is None else {}

    def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool) -> tuple[Tensor, None]:
        out = function(q, k, v, softmax_scale=call.scale, causal=causal, **options)
        return out[0] if isinstance(out, tuple) else out, None

    return dense_rows.run(call, dense)[0], None


GENERATIONS = tuple(
    Backend(
        name,
        f"{name} on dense rows",
        partial(_limits, name=name),
        partial(_run, name=name),
        lambda call: "not measured on this GPU",
        partial(_varies, name=name),
        dispatched=False,
    )
    for name in _MODULES
)
