"""torch's scaled_dot_product_attention, computed by this package inside a context."""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.kernels.attention import Full, attention
from phys4d.kernels.attention.backends import BACKENDS


@dataclass
class Calls:
    """Counts of the calls inside a context.

    Attributes:
        backend: of `attention`, as asked for.
        served: calls that this package computed.
        passed: reason -> calls that torch computed for this reason.
    """

    backend: str
    served: int = 0
    passed: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = "".join(f"; {count} to torch: {why}" for why, count in self.passed.items())
        reasons = reasons or ("" if self.served else "; no call reached it: functions imported by name before do not")
        return f"scaled_dot_product_attention, backend {self.backend}: {self.served} served{reasons}"


_lock = threading.Lock()
_contexts: list[Calls] = []  # of every thread: recomputation in a backward pass runs in a thread of autograd's
_original: Any = F.scaled_dot_product_attention
_inside: ContextVar[bool] = ContextVar("inside phys4d's attention", default=False)  # its backends call torch's function


def refusal(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool, enable_gqa: bool
) -> str | None:
    """Why torch must compute a call, None if it can be expressed as `attention` over [B, S, heads, D]."""
    if dropout_p:
        return "dropout_p"
    given = [q, k, v] if mask is None else [q, k, v, mask]
    if any(type(t) not in (Tensor, torch.nn.Parameter) or t.is_nested for t in given):
        return "a tensor of another kind (nested, distributed, a subclass)"
    if any(t.ndim != 4 for t in (q, k, v)):
        return "not [B, heads, S, D]"
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        return "queries, keys and values of different batches or head dimensions"
    if not q.is_floating_point() or any((t.dtype, t.device) != (q.dtype, q.device) for t in (k, v)):
        return "different dtypes or devices"
    if not q.numel() or not k.numel() or not v.numel():
        return "nothing to attend"
    if q.shape[1] != k.shape[1] and (not enable_gqa or q.shape[1] % k.shape[1]):
        return "queries and keys of different heads"
    if any(t.shape[3] > 1 and t.stride(3) != 1 for t in (q, k, v)):
        return "a head dimension that is not contiguous"
    if mask is None:
        return None
    if is_causal:
        return "attn_mask and is_causal at once"
    if mask.device != q.device or not (mask.dtype == torch.bool or mask.is_floating_point()):
        return "an attn_mask of another device or dtype"
    wanted = (*q.shape[:3], k.shape[2])
    if not 2 <= mask.ndim <= 4 or any(n not in (1, m) for n, m in zip(mask.shape[::-1], wanted[::-1], strict=False)):
        return "an attn_mask that does not broadcast to [B, heads, S_q, S_k]"
    return None


def of_pairs(mask: Tensor | None, keys: int) -> Tensor | None:
    """A mask as `attention` takes it, [B or 1, heads or 1, S_q or 1, S_k], of one that broadcasts to that."""
    if mask is None:
        return None
    return mask[(None,) * (4 - mask.ndim)].expand(-1, -1, -1, keys)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """The replacement of scaled_dot_product_attention while a context is open."""
    calls = next(reversed(tuple(_contexts)), None)
    if calls is None or _inside.get():
        return _original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    why = refusal(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    if why is not None:
        with _lock:
            calls.passed[why] = calls.passed.get(why, 0) + 1
        return _original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    inside = _inside.set(True)
    try:
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))
        mask = of_pairs(attn_mask, key.shape[2])
        out = attention(q, k, v, pattern=Full(causal=is_causal), mask=mask, scale=scale, backend=calls.backend)
    finally:
        _inside.reset(inside)
    with _lock:
        calls.served += 1
    return out.transpose(1, 2)


@contextlib.contextmanager
def sdpa(backend: str = "auto") -> Iterator[Calls]:
    """Inside this context torch.nn.functional.scaled_dot_product_attention is `attention`, in all threads.

    Masks, is_causal, heads that share keys (enable_gqa) and values of another width than the keys are served; a query
    that a mask lets see no key gives 0. Calls that `attention` does not express go to torch as before and are counted
    by reason: dropout, nested tensors and other subclasses, fewer or more than four dimensions. Code that took the
    function by name before (`from torch.nn.functional import ...`) is not reached. Contexts may be nested, the
    innermost decides; when the last is left, by an exception or not, the attribute holds again what it held. Meant for
    eager code: counting calls makes torch.compile recompile.

    Args:
        backend: "auto" or a name that `explain` gives, for the calls that are served.

    Yields:
        Calls: counts of both kinds, filled while the context is open.

    Raises:
        ValueError: no such backend; or, from a call inside, the backend asked for by name cannot serve it.
    """
    global _original
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend {backend!r}: expected auto, {', '.join(BACKENDS)}")
    calls = Calls(backend)
    with _lock:
        if not _contexts:
            _original = F.scaled_dot_product_attention
            F.scaled_dot_product_attention = _attend
        _contexts.append(calls)
    try:
        yield calls
    finally:
        with _lock:
            _contexts[:] = [other for other in _contexts if other is not calls]
            if not _contexts:
                F.scaled_dot_product_attention = _original
