"""torch.nn.functional.scaled_dot_product_attention: whatever torch takes, or one of its kernels by name."""

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from phys4d.kernels.attention.backends import dense_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.backends.dense_rows import combined
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.reference import visible_keys
from phys4d.kernels.dispatch import compute_capability, determinism

_ROWS = 1 << 15  # torch's CUDA kernels fail at 65,536 sequences
_SHORT = 256
"""Most keys for which the CPU computes half-precision attention in fp32: torch's backward of bf16 takes as long for 32
keys as for hundreds. Forward and backward in fp32 took 1.3 to 8 times less at up to 144 keys with heads of 32 to 128
channels, and 1.1 to 1.5 times more at 1,024 (torch 2.13, a Xeon with AMX). Without gradients it is fp32, too, though
bf16 takes a third less there: what a policy draws must be what is then trained."""


@dataclass(frozen=True)
class _Kernel:
    """One of torch's kernels on CUDA and what it takes (ATen/native/transformers/cuda/sdp_utils.cpp).

    Args:
        which: as torch names it.
        widest: largest head dimension.
        dtypes: that it takes.
        multiple: of which the bytes of a head must be a multiple.
        masks: whether it takes a mask.
        groups: whether heads of queries may share one of keys and values.
        unequal: whether heads of values may be wider or narrower than those of keys.
        capability: the lowest compute capability.
    """

    which: SDPBackend
    widest: int = 1 << 16
    dtypes: tuple[torch.dtype, ...] = ()  # all
    multiple: int = 1
    masks: bool = True
    groups: bool = True
    unequal: bool = False
    capability: int = 0


_HALF = (torch.bfloat16, torch.float16)
_KERNELS = {
    "flash": _Kernel(SDPBackend.FLASH_ATTENTION, 256, _HALF, masks=False, capability=80),
    "cudnn": _Kernel(SDPBackend.CUDNN_ATTENTION, 128, _HALF, multiple=16, capability=80),
    "efficient": _Kernel(
        SDPBackend.EFFICIENT_ATTENTION, dtypes=(*_HALF, torch.float32), multiple=16, groups=False, unequal=True
    ),
    "math": _Kernel(SDPBackend.MATH, unequal=True),
}


def _limits(call: Call) -> str | None:
    return "torch SDPA does not return the log-sum-exp" if call.return_lse else None


def _kernel_limits(call: Call, name: str) -> str | None:
    if not call.q.is_cuda:
        return f"torch chooses among its kernels on CUDA alone, the tensors are on {call.q.device.type}"
    kernel, dim, rows = _KERNELS[name], call.q.shape[-1], call.rows
    if kernel.dtypes and call.q.dtype not in kernel.dtypes:
        return f"torch's {name} kernel does not take {call.q.dtype}"
    if dim > kernel.widest or dim * call.q.element_size() % kernel.multiple:
        return f"torch's {name} kernel does not take heads of {dim} channels in {call.q.dtype}"
    capability = compute_capability(call.q.device.index) if kernel.capability else 0
    if capability < kernel.capability:
        return f"torch's {name} kernel needs compute capability {kernel.capability}, this device has {capability}"
    if name == "flash" and call.training and dim > 192 and (80 < capability < 90 or capability >= 120):
        return f"torch's flash kernel has no backward for heads of {dim} channels on compute capability {capability}"
    if call.grouped and not kernel.groups:
        return f"torch's {name} kernel takes as many heads of keys as of queries"
    if call.asymmetric and not kernel.unequal:
        return f"torch's {name} kernel takes values as wide as keys"
    if not kernel.masks and _masked(call):
        return f"torch's {name} kernel takes no mask, which this call needs"
    if call.mask_training and name == "cudnn":
        return "torch's cudnn kernel gives no gradient of a mask"
    keys = call.k.shape[1] if rows is None else rows.length + call.text_tokens
    if name == "cudnn" and keys == 1:
        return "torch's cudnn kernel does not take a single key"
    return _limits(call)


def _masked(call: Call) -> bool:
    """Whether torch gets a mask: it knows causal sequences of as many queries as keys itself."""
    if call.key_lengths is not None or call.mask is not None or not dense_rows.serves(call):
        return True
    if call.one_row:
        return call.causal and call.q.shape[1] != call.k.shape[1]
    return call.causal and call.text_tokens > 0


def warned_backward(call: Call) -> str | None:
    """Why a backward of torch's flash or efficient kernel varies: torch makes them deterministic where it must.

    In `_flash_attention_backward` and `_efficient_attention_backward` (attention_backward.cu, torch 2.11) that is where
    deterministic algorithms are on and not only warned of.
    """
    if call.q.is_cuda and call.training and determinism() == "warn":
        return "torch keeps its nondeterministic backward where it only warns"
    return None


def _cudnn_varies(call: Call) -> str | None:
    if determinism() == "required":
        return "torch does not run its cudnn kernel then"
    return "its backward is not deterministic" if call.training else None


def _dense(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool, *,
    padded: bool, scale: float | None, which: SDPBackend | None,
) -> tuple[Tensor, None]:  # fmt: skip
    """Dense attention of rows; padded: some queries may see no key. See `dense_rows.Dense`.

    A function of the module: one that is defined in the call and calls itself would be a reference cycle, which holds
    queries, keys and values until Python's garbage collector runs.
    """
    if q.is_cuda and len(q) > _ROWS:
        parts = range(0, len(q), _ROWS)
        masks = [visible if visible is None or len(visible) == 1 else visible[i : i + _ROWS] for i in parts]
        settings: dict[str, Any] = {"padded": padded, "scale": scale, "which": which}
        outs = [
            _dense(q[i : i + _ROWS], k[i : i + _ROWS], v[i : i + _ROWS], m, causal, **settings)[0]
            for i, m in zip(parts, masks, strict=True)
        ]
        return torch.cat(outs), None
    shared = {"enable_gqa": True} if q.shape[2] != k.shape[2] else {}  # a plain bool where sizes are symbols
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if causal and visible is not None:  # torch takes one or the other
        visible = combined(visible, torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril())
    blind = None
    if visible is not None and visible.dtype != torch.bool:
        visible = visible.to(q.dtype)
        blind = visible.isneginf().all(-1, keepdim=True)
        visible = visible.masked_fill(blind, 0)
    elif visible is not None and padded:  # a query that sees nothing is computed unmasked and discarded: no NaN
        blind = ~visible.any(-1, keepdim=True)
        visible = visible | blind
    kernel = sdpa_kernel(which) if which is not None else contextlib.nullcontext()
    settings = {"is_causal": causal and visible is None, "scale": scale, **shared}
    dtype = q.dtype
    if q.device.type == "cpu" and dtype in _HALF and k.shape[2] <= _SHORT:
        q, k, v = q.float(), k.float(), v.float()
        visible = visible if visible is None or visible.dtype == torch.bool else visible.float()
        with torch.autocast("cpu", enabled=False), kernel:  # which would take them back to half
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, **settings).to(dtype)
    else:
        with kernel:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, **settings)
    if blind is not None:
        out = out.masked_fill(blind, 0)
    return out.transpose(1, 2), None


def _run(call: Call, which: SDPBackend | None = None) -> tuple[Tensor, Tensor | None]:
    padded = call.key_lengths is not None or call.mask is not None
    dense = partial(_dense, padded=padded, scale=call.scale, which=which)
    if dense_rows.serves(call):
        return dense_rows.run(call, dense)
    seen = visible_keys(call.q, call.k, call.grid, call.pattern, call.text, call.key_lengths)
    return dense(call.q, call.k, call.v, combined(call.mask, seen), False)


SDPA = Backend(
    "sdpa", "torch SDPA; rows of a pattern as sequences of their own, other patterns by a boolean mask", _limits, _run,
    varies=warned_backward,
)  # fmt: skip
_VARIES = {"cudnn": _cudnn_varies, "math": lambda call: None}
NAMED_KERNELS = tuple(
    Backend(
        f"sdpa-{name}",
        f"torch SDPA's {name} kernel",
        partial(_kernel_limits, name=name),
        partial(_run, which=kernel.which),
        lambda call: "torch chooses among its kernels itself",
        _VARIES.get(name, warned_backward),
    )
    for name, kernel in _KERNELS.items()
)
