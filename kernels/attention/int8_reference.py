"""The definition of attention with scores from int8 products, in plain torch: tests compare the kernels with it.

SageAttention's arithmetic (Zhang et al. 2024, arXiv 2410.02367, Section 4) with blocks of tokens that share a scale.
"""

import torch
from torch import Tensor

from phys4d.kernels.attention.reference import attention_reference

QUERIES, KEYS = 128, 64  # tokens of a block, which share one scale


def quantised(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """x [B, S, heads, D] as integers times a scale for each clip, head and block of tokens.

    The scale is the largest magnitude of the block divided by 127, 1 for a block of zeros, NaN for one with a number
    that is not finite (its integers are 0 then); halves are rounded up.

    Args:
        x: float32 or float64.
        block: tokens that share a scale; the last block may be shorter.

    Returns:
        integers, shaped and typed like x, and scales [B, blocks, heads].
    """
    parts = x.split(block, dim=1)
    peaks = torch.stack([part.abs().amax((1, 3)) for part in parts], dim=1)
    finite = torch.stack([part.isfinite().all(3).all(1) for part in parts], dim=1)
    scales = torch.where(peaks > 0, peaks / 127, 1.0).where(finite, 1.0)
    each = _for_tokens(scales, block, x.shape[1])
    known = _for_tokens(finite, block, x.shape[1])
    integers = torch.floor(torch.where(known, x / each, 0.0) + 0.5)
    return integers, torch.where(finite, scales, torch.nan)


def int8_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, key_lengths: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """softmax(scale * q k^T) v with q and k - mean(k) rounded to int8; the rest as `attention_reference`.

    The mean of the visible keys adds the same number to all scores of a query, which softmax does not see, and takes
    away what channels have in common. The kernel rounds the weights to v's dtype, which is not done here.

    Args:
        q: [B, S_q, heads, D], any floating dtype.
        k, v: [B, S_k, kv_heads, D]; head h of the queries takes h // (heads / kv_heads).
        key_lengths: [B]; keys from there on are seen by no query, and not read.
        scale: of the scores; D ** -0.5 if None.

    Returns:
        out [B, S_q, heads, D] in q's dtype; 0 where a query sees no key.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    keys, values = k.to(exact), v.to(exact)
    count = torch.full((len(k),), k.shape[1], device=k.device)
    if key_lengths is not None:
        count = key_lengths.clamp(0, k.shape[1])
        there = (torch.arange(k.shape[1], device=k.device) < count[:, None])[:, :, None, None]
        keys, values = keys.where(there, 0), values.where(there, 0)
    mean = keys.sum(1, keepdim=True) / count.clamp(min=1)[:, None, None, None]
    keys = keys - mean
    if key_lengths is not None:
        keys = keys.where(there, 0)
    queries, keys = _rounded(q.to(exact), QUERIES), _rounded(keys, KEYS)
    out, _ = attention_reference(queries, keys, values, key_lengths=key_lengths, scale=scale)
    return out.to(q.dtype)


def _rounded(x: Tensor, block: int) -> Tensor:
    """x [B, S, heads, D] as int8 with scales for blocks hold it."""
    integers, scales = quantised(x, block)
    return integers * _for_tokens(scales, block, x.shape[1])


def _for_tokens(of_blocks: Tensor, block: int, tokens: int) -> Tensor:
    """[B, blocks, heads] for every token: [B, tokens, heads, 1]."""
    return of_blocks.repeat_interleave(block, dim=1)[:, :tokens, :, None]
