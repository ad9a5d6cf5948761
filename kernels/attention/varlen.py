"""Attention of sequences of different lengths that stand one after the other in one tensor."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from phys4d.kernels.attention.api import attention
from phys4d.kernels.attention.patterns import Full
from phys4d.kernels.dispatch import expect_one_device


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    *,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen: int | None = None,
    max_seqlen_k: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Any:
    """`attention` of packed sequences: a query sees the keys of its own sequence.

    Computed on copies padded to the longest sequence, by `attention` with `key_lengths`.

    Args:
        q: [total_q, heads, D], any strides; sequence i has the tokens cu_seqlens[i] to cu_seqlens[i + 1] - 1.
        k, v: [total_k, kv_heads, D] and [total_k, kv_heads, D_v], likewise by cu_seqlens_k; heads as in `attention`.
        cu_seqlens: [n + 1] int32 or int64, ascending, on q's device.
        cu_seqlens_k: the same of keys and values; None for cu_seqlens.
        max_seqlen, max_seqlen_k: length of the longest sequence, or more. None reads it from the device, for which the
            host waits.
        causal: query i of a sequence sees its keys 0 to i.
        scale, return_lse, backend: as `attention`.

    Returns:
        out [total_q, heads, D_v], and with `return_lse` lse [heads, total_q], as `attention`. Tokens of no sequence
        give 0 and -inf.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; on the CPU also offsets that are not ascending, or a
            sequence that is longer than said or reaches beyond the tensor (elsewhere the device asserts).
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 3:
            raise ValueError(f"{name}: expected [total, heads, D], got {list(tensor.shape)}")
    of_keys = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    expect_one_device("attention_varlen", q=q, k=k, v=v, cu_seqlens=cu_seqlens, cu_seqlens_k=of_keys)
    if cu_seqlens.shape != of_keys.shape:
        raise ValueError(f"cu_seqlens_k: expected {list(cu_seqlens.shape)} as cu_seqlens, got {list(of_keys.shape)}")
    if cu_seqlens_k is None:
        max_seqlen_k = max_seqlen if max_seqlen_k is None else max_seqlen_k
    queries = _Places.of("cu_seqlens", cu_seqlens, len(q), max_seqlen)
    keys = _Places.of("cu_seqlens_k", of_keys, len(k), max_seqlen_k)
    found = attention(
        queries.padded(q), keys.padded(k), keys.padded(v), pattern=Full(causal=causal), key_lengths=of_keys.diff(),
        scale=scale, return_lse=return_lse, backend=backend,
    )  # fmt: skip
    if not return_lse:
        return queries.packed(found, 0.0)
    out, lse = found
    return queries.packed(out, 0.0), queries.packed(lse.transpose(1, 2), -torch.inf).transpose(0, 1)


class _Places:
    """Where packed tokens stand in sequences padded to `longest`: `slot` [total], in one after the last for none."""

    def __init__(self, number: int, longest: int, slot: Tensor) -> None:
        self.number, self.longest, self.slot = number, longest, slot

    @staticmethod
    def of(name: str, offsets: Tensor, total: int, longest: int | None) -> "_Places":
        """From the offsets [n + 1] into `total` tokens; the longest sequence is read from the device if None."""
        if offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name}: expected int32 or int64 [n + 1], got {offsets.dtype} {list(offsets.shape)}")
        lengths = offsets.diff()
        longest = max(1, int(lengths.max())) if longest is None else longest
        fits = (lengths >= 0).all() & (lengths <= longest).all() & (offsets[0] >= 0) & (offsets[-1] <= total)
        fault = f"{name}: expected ascending offsets into {total} tokens, of sequences of at most {longest}"
        if offsets.device.type != "cpu":
            torch._assert_async(fits, fault)
        elif not torch.compiler.is_compiling() and not is_fake(fits) and not bool(fits):
            raise ValueError(f"{fault}, got {offsets.tolist()}")
        token = torch.arange(total, device=offsets.device, dtype=offsets.dtype)
        sequence = torch.searchsorted(offsets, token, right=True) - 1
        number = len(offsets) - 1
        none = (sequence < 0) | (sequence >= number)
        place = sequence * longest + token - offsets[sequence.clamp(0, number)]
        return _Places(number, longest, place.masked_fill(none, number * longest))

    def padded(self, x: Tensor) -> Tensor:
        """[total, heads, D] to [n, longest, heads, D], 0 where there is no token."""
        rows = x.new_zeros(self.number * self.longest + 1, *x.shape[1:]).index_copy(0, self.slot, x)
        return rows[:-1].unflatten(0, (self.number, self.longest))

    def packed(self, x: Tensor, absent: float) -> Tensor:
        """[n, longest, ...] to [total, ...], `absent` for tokens of no sequence."""
        rows = x.flatten(0, 1)
        rows = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, 1), value=absent)
        return rows.index_select(0, self.slot)
