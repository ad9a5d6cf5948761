"""Attention with scores from int8 products as a torch operator, `phys4d::attention_int8`: the launches and the rules.

It has no gradient. It is for calls that do not need one and may differ from `attention` by the error of the rounding,
which docs/attention-kernels.md states.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from phys4d.kernels.attention import hardware, int8_kernels
from phys4d.kernels.attention.flash import LOG2E
from phys4d.kernels.attention.int8_reference import KEYS, QUERIES, int8_attention_reference
from phys4d.kernels.dispatch import (
    INTERPRETED,
    aligned_strides,
    below_autograd,
    contiguous_integers,
    cpu_kernel,
    launch,
    on_device_of,
)

DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)
SUMMED = 256  # tokens of which one program sums the keys

# Generation -> head dimension -> options of the attention kernel. Chosen by registers, spills and shared memory.
_CONFIGS = {
    "hopper": {64: {"num_warps": 8, "num_stages": 3}, 128: {"num_warps": 8, "num_stages": 3}},
    "ampere": {64: {"num_warps": 8, "num_stages": 3}, 128: {"num_warps": 8, "num_stages": 3}},
}


def _quantised(x: Tensor, block: int, mean: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """int8 [B, heads, blocks * block, D] and scales float32 [B, heads, blocks] of x [B, S, heads, D], or x - mean."""
    clips, tokens, heads, dim = x.shape
    blocks = triton.cdiv(tokens, block)
    out = torch.empty((clips, heads, blocks * block, dim), dtype=torch.int8, device=x.device)
    scales = torch.empty((clips, heads, blocks), dtype=torch.float32, device=x.device)
    align, strides = aligned_strides(x)
    launch(
        int8_kernels.quantise, clips * heads * blocks,
        x, mean if mean is not None else scales, out, scales, lengths if lengths is not None else scales,
        tokens, heads, blocks, *strides, BLOCK=block, D=dim, CENTRED=mean is not None, PADDED=lengths is not None,
        ALIGN=align, num_warps=4,
    )  # fmt: skip
    return out, scales


def _mean(k: Tensor, lengths: Tensor | None) -> Tensor:
    """float32 [B, kv_heads, D]: the mean of the keys before `lengths`, 0 where there is none."""
    clips, tokens, heads, dim = k.shape
    blocks = triton.cdiv(tokens, SUMMED)
    sums = torch.empty((clips, heads, blocks, dim), dtype=torch.float32, device=k.device)
    align, strides = aligned_strides(k)
    launch(
        int8_kernels.sums, clips * heads * blocks, k, sums, lengths if lengths is not None else sums,
        tokens, heads, blocks, *strides, BLOCK=SUMMED, D=dim, PADDED=lengths is not None, ALIGN=align, num_warps=8,
    )  # fmt: skip
    if lengths is None:
        return sums.sum(2) / tokens
    return sums.sum(2) / lengths.clamp(1, tokens)[:, None, None]


def forward(q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, scale: float) -> Tensor:
    """out [B, S_q, heads, D] in q's dtype, of q [B, S_q, heads, D] and k, v [B, S_k, kv_heads, D]."""
    lengths = contiguous_integers(key_lengths)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    clips, queries, heads, dim = q.shape
    with on_device_of(q):  # the options depend on the GPU
        integers, scales = _quantised(q, QUERIES, None, None)
        key_integers, key_scales = _quantised(k, KEYS, _mean(k, lengths), lengths)
        options = {} if INTERPRETED else _CONFIGS[hardware.generation(q.dtype, _CONFIGS)][dim]
        align, strides = aligned_strides(v, out)
        launch(
            int8_kernels.forward, clips * heads * scales.shape[2],
            integers, scales, key_integers, key_scales, v, out, lengths if lengths is not None else scales,
            scale * LOG2E, heads, queries, k.shape[1], scales.shape[2], key_scales.shape[2], *strides,
            BLOCK_M=QUERIES, BLOCK_N=KEYS, D=dim, PADDED=lengths is not None, ALIGN=align,
            GROUP=heads // k.shape[2], **options,
        )  # fmt: skip
    return out


int8_op = torch.library.custom_op("phys4d::attention_int8", forward, mutates_args=())
int8_call = below_autograd(int8_op)


@int8_op.register_fake
def _(q: Tensor, *rest: Any) -> Tensor:
    return q.new_empty(q.shape)


@cpu_kernel(int8_op)
def _(q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, scale: float) -> Tensor:
    return int8_attention_reference(q, k, v, key_lengths=key_lengths, scale=scale).contiguous()
