"""One call of diffusers' attention dispatcher, computed by `attention` or, with the reason counted, by torch.

Source of the interface: diffusers, models/attention_dispatch.py (`_native_attention`, `_flash_attention`,
`_flash_attention_forward_op` and `_flash_attention_backward_op`).
"""

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import Full, attention, attention_backward
from phys4d.kernels.integrate.functional import of_pairs, refusal


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


_FULL = (Full(), Full(causal=True))
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
        if attn_mask is not None and attn_mask.shape == (query.shape[0], key.shape[1]):
            attn_mask = attn_mask[:, None, None]  # of keys for each clip, as NATIVE takes it
        context = None if _parallel_config is None else _parallel_config.context_parallel_config
        mask = attn_mask if context is None else None
        q, k, v = (t.transpose(1, 2) if t.ndim == 4 else t for t in (query, key, value))
        why = refusal(q, k, v, mask, dropout_p, is_causal, enable_gqa)
        if context is not None:
            _check_context(context, attn_mask, why)
        if why is None and context is None:
            found = attention(
                query, key, value, pattern=_FULL[bool(is_causal)], mask=of_pairs(attn_mask, key.shape[1]), scale=scale,
                return_lse=return_lse, backend=self.backend,
            )  # fmt: skip
            _count(None)
            return (found[0], found[1].transpose(1, 2)) if return_lse else found
        from diffusers.models import attention_dispatch as module

        _count(why)
        if why is not None:
            return module._native_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, return_lse, _parallel_config
            )
        return module._templated_context_parallel_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale, enable_gqa, return_lse,
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
        assert not dropout_p and not is_causal and not enable_gqa
        mask = of_pairs(attn_mask, key.shape[1])
        out, lse = attention(query, key, value, mask=mask, scale=scale, return_lse=True, backend=self.backend)
        lse = lse.transpose(1, 2)
        if _save_ctx:
            ctx.save_for_backward(query, key, value, out, lse)
            ctx.scale, ctx.mask = scale, mask
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
    return attention_backward(q, k, v, o, logs.transpose(1, 2), grad_out, mask=ctx.mask, scale=ctx.scale)


def _check_context(context: Any, mask: Tensor | None, why: str | None) -> None:
    """ValueError where torch cannot compute a call in this context parallelism either, or would compute it wrongly."""
    if context.ring_degree > 1:
        if mask is not None:  # diffusers' ring gives each rank's mask to the keys of all ranks
            why = "a mask, which diffusers does not divide with the keys"
        if why is not None:
            raise ValueError(f"phys4d: ring context parallelism cannot serve this call: {why}; use Ulysses alone")
    if why == "dropout_p":
        raise ValueError("phys4d: dropout in context parallelism: its backward pass would draw another mask")
