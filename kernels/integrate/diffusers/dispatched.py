"""One call of diffusers' attention dispatcher, computed by `attention` or, with the reason counted, by torch.

Source of the interface: diffusers, models/attention_dispatch.py (`_native_attention`, `_flash_attention`,
`_flash_attention_forward_op` and `_flash_attention_backward_op`).
"""

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention, attention_backward


@dataclass
class Dispatched:
    """Counts of the calls that reached the backend, of all models and threads. `print` it.

    Under torch.compile a call counts when it is traced, not each time that the compiled graph runs.

    Attributes:
        backend: of `attention`, as asked for.
        served: calls that `attention` computed.
        passed: reason -> calls that diffusers' NATIVE backend (torch's scaled_dot_product_attention) computed for it.
    """

    backend: str
    served: int = 0
    passed: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, why: str | None) -> None:
        """Counts one call: served, or passed on for this reason."""
        with self._lock:
            if why is None:
                self.served += 1
            else:
                self.passed[why] = self.passed.get(why, 0) + 1

    def clear(self) -> None:
        """Starts counting from 0 again."""
        with self._lock:
            self.served = 0
            self.passed.clear()

    def __str__(self) -> str:
        reasons = "".join(f"; {count} to torch: {why}" for why, count in self.passed.items())
        if not self.served and not self.passed:
            reasons = "; no call reached it: the model has another backend, or does not use the dispatcher"
        return f"diffusers' attention dispatcher, backend phys4d ({self.backend}): {self.served} served{reasons}"


def refusal(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    enable_gqa: bool = False,
) -> str | None:  # fmt: skip
    """Why torch must compute a call on q, k, v [B, S, heads, D]; None where `attention` serves it."""
    if attn_mask is not None:
        return "a mask"
    if dropout_p:
        return "dropout"
    if is_causal:
        return "causal attention"
    if any(type(t) not in (Tensor, torch.nn.Parameter) or t.is_nested for t in (q, k, v)):
        return "a tensor of another kind (nested, distributed, a subclass)"
    if any(t.ndim != 4 for t in (q, k, v)):
        return "not [B, S, heads, D]"
    if enable_gqa and q.shape[2] != k.shape[2]:
        return "grouped heads"
    if k.shape != v.shape or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        return "queries, keys and values of different batches, heads or head dimensions"
    if not q.is_floating_point() or any((t.dtype, t.device) != (q.dtype, q.device) for t in (k, v)):
        return "different dtypes or devices"
    if not q.numel() or not k.numel():
        return "nothing to attend"
    if q.shape[3] > 1 and any(t.stride(3) != 1 for t in (q, k, v)):
        return "a head dimension that is not contiguous"
    return None


_registered: Dispatched | None = None


def set_report(report: Dispatched | None) -> None:
    """Makes this the report that calls are counted in; None where the backend is not registered."""
    global _registered
    _registered = report


def registered() -> Dispatched | None:
    """The report that calls are counted in."""
    return _registered


@torch.compiler.assume_constant_result
def _count(why: str | None) -> None:
    """Counts a call; while tracing this runs once, at the trace."""
    assert _registered is not None
    _registered.count(why)


class Serve:
    """The function that diffusers' dispatcher calls, for one choice of `attention`'s backend.

    Args:
        backend: "auto" or a name that `explain` gives.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        return_lse: bool = False,
        _parallel_config: Any = None,
    ) -> Any:
        """out [B, S_q, heads, D]; with return_lse also lse [B, S_q, heads]."""
        from diffusers.models import attention_dispatch as module

        why = refusal(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
        if _parallel_config is not None and why is not None:
            _check_passing_on(_parallel_config.context_parallel_config, why)
        _count(why)
        if why is not None:
            return module._native_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, return_lse, _parallel_config
            )
        if _parallel_config is None:
            found = attention(query, key, value, scale=scale, return_lse=return_lse, backend=self.backend)
            return (found[0], found[1].transpose(1, 2)) if return_lse else found
        return module._templated_context_parallel_attention(
            query, key, value, None, 0.0, False, scale, False, return_lse,
            forward_op=self.forward, backward_op=backward, _parallel_config=_parallel_config,
        )  # fmt: skip

    def forward(
        self,
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        return_lse: bool = False,
        _save_ctx: bool = True,
        _parallel_config: Any = None,
    ) -> Any:
        """One rank's call in diffusers' context parallelism: out, and lse [B, S_q, heads] where asked for."""
        assert attn_mask is None and not dropout_p and not is_causal and not enable_gqa
        out, lse = attention(query, key, value, scale=scale, return_lse=True, backend=self.backend)
        lse = lse.transpose(1, 2)
        if _save_ctx:
            ctx.save_for_backward(query, key, value, out, lse)
            ctx.scale = scale
        return (out, lse) if return_lse else out


def backward(
    ctx: Any, grad_out: Tensor, *_: Any, query: Tensor | None = None, key: Tensor | None = None,
    value: Tensor | None = None, out: Tensor | None = None, lse: Tensor | None = None, **__: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of one rank's call. The ring gives the keys and values of another rank, and out and lse over all."""
    given = (query, key, value, out, lse)
    q, k, v, o, logs = (saved if t is None else t for saved, t in zip(ctx.saved_tensors, given, strict=True))
    if grad_out.stride(-1) != 1:
        grad_out = grad_out.contiguous()
    return attention_backward(q, k, v, o, logs.transpose(1, 2), grad_out, scale=ctx.scale)


def _check_passing_on(context: Any, why: str) -> None:
    """ValueError where torch cannot compute a call in this context parallelism either, or would compute it wrongly."""
    if context.ring_degree > 1:
        raise ValueError(f"phys4d: ring context parallelism cannot serve this call: {why}; use Ulysses alone")
    if why == "dropout":
        raise ValueError("phys4d: dropout in context parallelism: its backward pass would draw another mask")
