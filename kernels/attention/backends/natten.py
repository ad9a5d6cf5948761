"""NATTEN's neighbourhood attention in three dimensions: `Window` without text, bfloat16 and float16.

Its window is ours: with stride and dilation 1 a window of w cells along an axis of n starts for query i at
max(i - w // 2, 0), less what would reach beyond the axis, that is at clamp(i - w // 2, 0, n - w), for even w, too
(github.com/SHI-Labs/NATTEN: `NeighborhoodAttentionMaskBase.get_window_start` in csrc/include/natten/cuda/fna/
na_utils.cuh, `single_dim_tiling_mask` in src/natten/backends/flex.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import Window
from phys4d.kernels.dispatch import compute_capability, constant_for_process


@constant_for_process
def _function() -> Callable[..., Any] | str:
    try:
        from natten._libnatten import HAS_LIBNATTEN
        from natten.functional import na3d
    except (ImportError, OSError) as fault:
        return f"natten cannot be imported ({fault}); pip install phys4d[natten], or a wheel of natten.org"
    return na3d if HAS_LIBNATTEN else "natten was installed without its kernels (libnatten)"  # type: ignore[no-any-return]


def _limits(call: Call) -> str | None:
    pattern, dim = call.pattern, call.q.shape[-1]
    if not call.q.is_cuda:
        return f"it runs on CUDA, the tensors are on {call.q.device.type}"
    if not isinstance(pattern, Window):
        return f"it computes windows, not {pattern}"
    if min(pattern.numbers) < 2:
        return f"it takes windows of two cells or more along every axis, not {pattern}"
    if call.text_tokens:
        return "its queries see no text, and text no video"
    if call.key_lengths is not None:
        return "it takes no key_lengths"
    if call.mask is not None:
        return "it takes no mask"
    if call.grouped or call.asymmetric:
        return "it takes heads of queries, keys and values of equal number and width"
    if call.return_lse:
        return "its log-sum-exp is not differentiable"
    if call.q.dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 and float16, not {call.q.dtype}"
    if dim % 8 or dim > 256:
        return f"it takes head dimensions that are multiples of 8 up to 256, not {dim}"
    if call.factor == 0:
        return "it takes a scale of 0 for its default"
    if (capability := compute_capability(call.q.device.index)) < 80:
        return f"it is used from compute capability 8.0 on, this device has {capability}"
    function = _function()
    return function if isinstance(function, str) else None


def _varies(call: Call) -> str | None:
    """With deterministic algorithms on it leaves its kernels whose gradients vary out, where q wants a gradient."""
    if call.training and not call.q.requires_grad:
        return "it makes its backward deterministic only where q wants a gradient"
    return None


def _run(call: Call) -> tuple[Tensor, None]:
    function, pattern = _function(), call.pattern
    assert not isinstance(function, str) and call.grid is not None
    q, k, v = (t.unflatten(1, call.grid) for t in (call.q, call.k, call.v))
    return function(q, k, v, kernel_size=tuple(pattern.numbers), scale=call.factor).flatten(1, 3), None


NATTEN = Backend(
    "natten", "NATTEN's neighbourhood attention", _limits, _run, lambda call: "not measured on this GPU", _varies,
    dispatched=False,
)  # fmt: skip
