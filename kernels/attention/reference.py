"""The definition of attention in plain torch, any dtype up to float64: tests compare every backend with it."""

import torch
from torch import Tensor

from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Text, allowed, check_pattern


def visible_keys(
    q: Tensor, k: Tensor, grid: Grid | None, pattern: Pattern, text: Text | None, key_lengths: Tensor | None
) -> Tensor | None:
    """Which query sees which key: bool, broadcastable to [B, heads, S_q, S_k]; None if all see all."""
    mask = None
    if not pattern.sees_all:
        assert grid is not None
        mask = allowed(pattern, grid, text, device=q.device)[None, None]
    if key_lengths is not None:
        position = torch.arange(k.shape[1], device=k.device)
        real = (position < key_lengths.to(k.device)[:, None])[:, None, None, :]
        mask = real if mask is None else mask & real
    return mask


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k^T) v over the visible keys, with every score materialised.

    Half precision is computed in float32 and rounded once at the end.

    Args:
        q: [B, S_q, heads, D], any floating dtype.
        k, v: [B, S_k, heads, D].
        grid, pattern, text, key_lengths, scale: as `attention`.

    Returns:
        out [B, S_q, heads, D] in q's dtype, and lse [B, heads, S_q], the natural log of the scaled scores'
        sum, in float32 (float64 for float64). A query that sees no key gives 0 and -inf.

    Raises:
        ValueError: the pattern does not fit the sequence.
    """
    check_pattern(pattern, grid, text, q.shape[1], k.shape[1])
    exact = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("bshd,bthd->bhst", q.to(exact), k.to(exact)) * scale
    mask = visible_keys(q, k, grid, pattern, text, key_lengths)
    if mask is None:
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp()
    else:
        blind = ~mask.any(-1, keepdim=True)  # such a row is computed unmasked and then discarded: no NaN
        scores = scores.masked_fill(~(mask | blind), -torch.inf)
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp().masked_fill(blind, 0)
        lse = lse.masked_fill(blind[..., 0], -torch.inf)
    return torch.einsum("bhst,bthd->bshd", weights, v.to(exact)).to(q.dtype), lse


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
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from out and lse (Dao et al. 2022, FlashAttention, Appendix B.2), every score materialised.

    Args:
        q, k, v, grid, pattern, text, key_lengths, scale: as `attention_reference`.
        out, lse: its results.
        dout: gradient of out, [B, S_q, heads, D].
        dlse: gradient of lse, [B, heads, S_q].
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("bshd,bthd->bhst", q.to(exact), k.to(exact)) * scale
    weights = (scores - torch.where(lse.isfinite(), lse, torch.inf).to(exact)[..., None]).exp()
    mask = visible_keys(q, k, grid, pattern, text, key_lengths)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0)
    dweights = torch.einsum("bshd,bthd->bhst", dout.to(exact), v.to(exact))
    minus = (out.to(exact) * dout.to(exact)).sum(-1).transpose(1, 2)
    if dlse is not None:
        minus = minus - dlse.to(exact)
    dscores = weights * (dweights - minus[..., None]) * scale
    dq = torch.einsum("bhst,bthd->bshd", dscores, k.to(exact))
    dk = torch.einsum("bhst,bshd->bthd", dscores, q.to(exact))
    dv = torch.einsum("bhst,bshd->bthd", weights, dout.to(exact))
    return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype)
