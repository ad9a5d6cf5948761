"""torch.nn.functional.scaled_dot_product_attention: whatever torch takes, or one of its kernels by name."""

import contextlib
from functools import partial
from typing import Any

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


def _dense(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, *,
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
            _dense(q[i : i + _ROWS], k[i : i + _ROWS], v[i : i + _ROWS], m, **settings)[0]
            for i, m in zip(parts, masks, strict=True)
        ]
        return torch.cat(outs), None
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    blind = None
    if visible is not None:
        visible = visible[:, None]
        if padded:  # a query that sees nothing is computed unmasked and discarded: no NaN
            blind = ~visible.any(-1, keepdim=True)
            visible = visible | blind
    with sdpa_kernel(which) if which is not None else contextlib.nullcontext():
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    if blind is not None:
        out = out.masked_fill(blind, 0)
    return out.transpose(1, 2), None


def _run(call: Call, which: SDPBackend | None = None) -> tuple[Tensor, Tensor | None]:
    dense = partial(_dense, padded=call.key_lengths is not None, scale=call.scale, which=which)
    if not call.pattern.sees_all and call.rows is None:
        mask = visible_keys(call.q, call.k, call.grid, call.pattern, call.text, call.key_lengths)
        assert mask is not None
        return dense(call.q, call.k, call.v, mask[:, 0])
    return dense_rows.run(call, dense)


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
