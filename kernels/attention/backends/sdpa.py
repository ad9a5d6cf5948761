"""torch.nn.functional.scaled_dot_product_attention: whatever torch takes, or one of its kernels by name."""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from phys4d.kernels.attention.backends import dense_rows
from phys4d.kernels.attention.backends.backend import Backend
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.reference import visible_keys

_ROWS = 1 << 15  # torch's CUDA kernels fail at 65,536 sequences


def _refusal(call: Call) -> str | None:
    if call.return_lse:
        return "torch SDPA does not return the log-sum-exp"
    if call.q.is_cuda and call.training and torch.are_deterministic_algorithms_enabled():
        return "its backward on CUDA is not deterministic, and deterministic algorithms are asked for"
    return None


def _named_refusal(call: Call) -> str | None:
    if not call.q.is_cuda:
        return f"torch chooses among its kernels on CUDA alone, the tensors are on {call.q.device.type}"
    return _refusal(call)


def _dense(call: Call, which: SDPBackend | None) -> dense_rows.Dense:
    def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> tuple[Tensor, None]:
        if q.is_cuda and len(q) > _ROWS:
            parts = range(0, len(q), _ROWS)
            masks = [visible if visible is None or len(visible) == 1 else visible[i : i + _ROWS] for i in parts]
            outs = [
                dense(q[i : i + _ROWS], k[i : i + _ROWS], v[i : i + _ROWS], m)[0]
                for i, m in zip(parts, masks, strict=True)
            ]
            return torch.cat(outs), None
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        blind = None
        if visible is not None:
            visible = visible[:, None]
            if call.key_lengths is not None:  # a query that sees nothing is computed unmasked and discarded: no NaN
                blind = ~visible.any(-1, keepdim=True)
                visible = visible | blind
        with sdpa_kernel(which) if which is not None else contextlib.nullcontext():
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=call.scale)
        if blind is not None:
            out = out.masked_fill(blind, 0)
        return out.transpose(1, 2), None

    return dense


def _run(call: Call, which: SDPBackend | None = None) -> tuple[Tensor, Tensor | None]:
    if not call.pattern.sees_all and call.rows is None:
        mask = visible_keys(call.q, call.k, call.grid, call.pattern, call.text, call.key_lengths)
        assert mask is not None
        return _dense(call, which)(call.q, call.k, call.v, mask[:, 0])
    return dense_rows.run(call, _dense(call, which))


SDPA = Backend(
    "sdpa", "torch SDPA; rows of a pattern as sequences of their own, other patterns by a boolean mask", _refusal,
    _run,
)
NAMED_KERNELS = tuple(
    Backend(
        f"sdpa-{name}",
        f"torch SDPA's {name} kernel",
        _named_refusal,
        lambda call, which=which: _run(call, which),  # type: ignore[misc]
        lambda call: "torch chooses among its kernels itself",
    )
    for name, which in (
        ("flash", SDPBackend.FLASH_ATTENTION),
        ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ("efficient", SDPBackend.EFFICIENT_ATTENTION),
        ("math", SDPBackend.MATH),
    )
)
