"""The public attention function, and the choice of who computes it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Text, check_pattern
from phys4d.kernels.attention.reference import attention_reference, visible_keys


@dataclass(frozen=True)
class Call:
    """The arguments of one call, checked."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid: Grid | None
    pattern: Pattern
    text: Text | None
    key_lengths: Tensor | None
    scale: float | None
    return_lse: bool

    def __post_init__(self) -> None:
        q, k, v = self.q, self.k, self.v
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            if tensor.ndim != 4:
                raise ValueError(f"{name}: expected [B, S, heads, D], got {list(tensor.shape)}")
            if not tensor.is_floating_point() or tensor.dtype != q.dtype or tensor.device != q.device:
                raise ValueError(
                    f"{name}: expected q's floating dtype and device ({q.dtype} on {q.device}), "
                    f"got {tensor.dtype} on {tensor.device}"
                )
            if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
                raise ValueError(
                    f"{name}: the last dimension must be contiguous, its stride is {tensor.stride(-1)}"
                )
        if k.shape != v.shape or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
            raise ValueError(
                "q [B, S_q, heads, D] and k, v [B, S_k, heads, D] do not fit: "
                f"got {list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
            )
        if k.shape[1] == 0:
            raise ValueError("k: no keys")
        lengths = self.key_lengths
        if lengths is not None and (
            lengths.shape != (q.shape[0],) or lengths.is_floating_point() or lengths.dtype == torch.bool
        ):
            raise ValueError(
                f"key_lengths: expected {q.shape[0]} integers, got {lengths.dtype} {list(lengths.shape)}"
            )
        check_pattern(self.pattern, self.grid, self.text, q.shape[1], k.shape[1])


@dataclass(frozen=True)
class Choice:
    """Who serves a call, why, and why the others were passed over."""

    backend: str
    reason: str
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        others = "".join(f"; not {name}: {why}" for name, why in self.refused.items())
        return f"{self.backend}: {self.reason}{others}"


def _sdpa_refusal(call: Call) -> str | None:
    if call.return_lse:
        return "torch SDPA does not return the log-sum-exp"
    training = torch.is_grad_enabled() and any(t.requires_grad for t in (call.q, call.k, call.v))
    if call.q.is_cuda and training and torch.are_deterministic_algorithms_enabled():
        return "its backward on CUDA is not deterministic, and deterministic algorithms are asked for"
    return None


def _run_sdpa(call: Call) -> tuple[Tensor, Tensor | None]:
    q, k, v = (t.transpose(1, 2) for t in (call.q, call.k, call.v))
    mask = visible_keys(call.q, call.k, call.grid, call.pattern, call.text, call.key_lengths)
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, scale=call.scale).transpose(1, 2), None
    if call.key_lengths is None:  # without padding every query sees itself
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=call.scale).transpose(1, 2), None
    blind = ~mask.any(-1, keepdim=True)  # such a row is computed unmasked and then discarded: no NaN
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | blind, scale=call.scale)
    return out.masked_fill(blind, 0).transpose(1, 2), None


def _run_reference(call: Call) -> tuple[Tensor, Tensor | None]:
    return attention_reference(
        call.q, call.k, call.v,
        grid=call.grid, pattern=call.pattern, text=call.text, key_lengths=call.key_lengths, scale=call.scale,
    )  # fmt: skip


@dataclass(frozen=True)
class _Backend:
    reason: str
    refusal: Callable[[Call], str | None]
    run: Callable[[Call], tuple[Tensor, Tensor | None]]


# In the order in which "auto" asks.
_BACKENDS = {
    "sdpa": _Backend("torch SDPA, with a boolean mask where the pattern needs one", _sdpa_refusal, _run_sdpa),
    "reference": _Backend("plain torch, every score materialised", lambda call: None, _run_reference),
}


def _choose(call: Call, backend: str) -> Choice:
    if backend != "auto":
        if backend not in _BACKENDS:
            raise ValueError(f"backend {backend!r}: expected auto, {', '.join(_BACKENDS)}")
        refusal = _BACKENDS[backend].refusal(call)
        if refusal is not None:
            raise ValueError(f"backend {backend!r} cannot serve this call: {refusal}")
        return Choice(backend, "asked for by name")
    refused: dict[str, str] = {}
    for name, candidate in _BACKENDS.items():
        refusal = candidate.refusal(call)
        if refusal is None:
            return Choice(name, candidate.reason, refused)
        refused[name] = refusal
    raise AssertionError("the reference serves every call")


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention over a video's tokens, all of them or those that a pattern lets each query see.

    Args:
        q: [B, S_q, heads, D], any strides with a contiguous last dimension.
        k, v: [B, S_k, heads, D], likewise; S_k = S_q but for `Full`.
        grid: (T, H, W) of the video tokens; needed by every pattern but `Full`.
        pattern: Full() | Spatial() | Temporal(causal) | Window(t, h, w), see there.
        text: (n, "first" | "last"): n text tokens stand before or after the video. Text queries see every
            key; video queries see the text and their pattern.
        key_lengths: [B] integers; keys at and after that position are padding that nobody sees.
        scale: of the scores; D ** -0.5 if None.
        return_lse: also return lse.
        backend: "auto" or one of those that `explain` names.

    Returns:
        out [B, S_q, heads, D] in q's dtype; with `return_lse` also lse [B, heads, S_q], the natural log of
        the scaled scores' sum, differentiable, float32 (float64 for float64). A query that sees no key gives
        0 and -inf.

    Raises:
        ValueError: shapes, dtypes or strides other than these; a pattern that does not fit; a backend asked
            for by name that cannot serve the call.
    """
    call = Call(q, k, v, grid, pattern, text, key_lengths, scale, return_lse)
    out, lse = _BACKENDS[_choose(call, backend).backend].run(call)
    if not return_lse:
        return out
    assert lse is not None
    return out, lse


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Choice:
    """Which backend `attention` would take for these arguments, and why; raises what it would raise."""
    return _choose(Call(q, k, v, grid, pattern, text, key_lengths, scale, return_lse), backend)
