"""The definition of attention in plain torch, any dtype up to float64: tests compare every backend with it."""

import functools

import torch
from torch import Tensor

from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Text, allowed, check_pattern


def visible_keys(
    q: Tensor, k: Tensor, grid: Grid | None, pattern: Pattern, text: Text | None, key_lengths: Tensor | None,
    mask: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """Which query sees which key: bool, broadcastable to [B, heads, S_q, S_k]; None if all see all.

    An additive mask hides the keys at which it is -inf.
    """
    seen = []
    if pattern.crosses and not (text and text[0]):
        if not pattern.sees_all:
            every = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
            seen.append(every.tril()[None, None])
    elif not pattern.sees_all:
        assert grid is not None
        seen.append(allowed(pattern, grid, text, device=q.device)[None, None])
    if key_lengths is not None:
        position = torch.arange(k.shape[1], device=k.device)
        seen.append((position < key_lengths.to(k.device)[:, None])[:, None, None, :])
    if mask is not None:
        seen.append(mask if mask.dtype == torch.bool else ~mask.isneginf())
    return functools.reduce(torch.logical_and, seen) if seen else None


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """scale * q k^T of keys for every head, plus an additive mask where it is not -inf, [B, heads, S_q, S_k]."""
    scores = torch.einsum("bshd,bthd->bhst", q, k) * scale
    if mask is None or mask.dtype == torch.bool:
        return scores
    return scores + mask.to(scores.dtype).masked_fill(mask.isneginf(), 0)


def _for_heads(x: Tensor, heads: int) -> Tensor:
    """Keys or values [B, S, kv_heads, D] for every head of the queries: of equal groups, one each."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2)


def _of_group(gradient: Tensor, kv_heads: int) -> Tensor:
    """The gradient of keys or values from that of `_for_heads`: the sum of each group."""
    return gradient if gradient.shape[2] == kv_heads else gradient.unflatten(2, (kv_heads, -1)).sum(3)


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k^T) v over the visible keys, with every score materialised.

    Half precision is computed in float32 and rounded once at the end.

    Args:
        q: [B, S_q, heads, D], any floating dtype.
        k, v: [B, S_k, kv_heads, D] and [B, S_k, kv_heads, D_v]; head h of the queries takes h // (heads / kv_heads).
        grid, pattern, text, key_lengths, mask, scale: as `attention`.

    Returns:
        out [B, S_q, heads, D_v] in q's dtype, and lse [B, heads, S_q], the natural log of the scaled scores'
        sum, in float32 (float64 for float64). A query that sees no key gives 0 and -inf.

    Raises:
        ValueError: the pattern does not fit the sequence.
    """
    check_pattern(pattern, grid, text, q.shape[1], k.shape[1])
    exact = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (_for_heads(t, q.shape[2]).to(exact) for t in (k, v))
    scores = _scores(q.to(exact), k, mask, scale)
    seen = visible_keys(q, k, grid, pattern, text, key_lengths, mask)
    if seen is None:
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp()
    else:
        blind = ~seen.any(-1, keepdim=True)  # such a row is computed unmasked and then discarded: no NaN
        scores = scores.masked_fill(~(seen | blind), -torch.inf)
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp().masked_fill(blind, 0)
        lse = lse.masked_fill(blind[..., 0], -torch.inf)
    return torch.einsum("bhst,bthd->bshd", weights, v).to(q.dtype), lse


def attention_backward_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor | None = None,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from out and lse (Dao et al. 2022, FlashAttention, Appendix B.2), every score materialised.

    Args:
        q, k, v, grid, pattern, text, key_lengths, mask, scale: as `attention_reference`.
        out, lse: its results.
        dout: gradient of out, [B, S_q, heads, D_v].
        dlse: gradient of lse, [B, heads, S_q].
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    keys, values = (_for_heads(t, q.shape[2]).to(exact) for t in (k, v))
    scores = _scores(q.to(exact), keys, mask, scale)
    weights = (scores - torch.where(lse.isfinite(), lse, torch.inf).to(exact)[..., None]).exp()
    seen = visible_keys(q, k, grid, pattern, text, key_lengths, mask)
    if seen is not None:
        weights = weights.masked_fill(~seen, 0)
    dweights = torch.einsum("bshd,bthd->bhst", dout.to(exact), values)
    minus = (out.to(exact) * dout.to(exact)).sum(-1).transpose(1, 2)
    if dlse is not None:
        minus = minus - dlse.to(exact)
    dscores = weights * (dweights - minus[..., None]) * scale
    dq = torch.einsum("bhst,bthd->bshd", dscores, keys)
    dk = _of_group(torch.einsum("bhst,bshd->bthd", dscores, q.to(exact)), k.shape[2])
    dv = _of_group(torch.einsum("bhst,bshd->bthd", weights, dout.to(exact)), k.shape[2])
    return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype)
