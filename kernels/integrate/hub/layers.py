"""Layers without state: `kernels.kernelize` gives their forward to a model's layers, whose members it uses."""

import torch
from torch import Tensor, nn

from phys4d.kernels.attention import Full, attention
from phys4d.kernels.elementwise import QKNorm, Rope, adaptive_norm, qk_norm_rope

__all__ = ["AdaptiveNorm", "Attention", "LayerNorm", "QKNormRope", "RMSNorm"]


class Attention(nn.Module):
    """Attention of query [B, S_q, heads, D] to key and value [B, S_k, kv_heads, D or D_v]."""

    has_backward: bool = True
    can_torch_compile: bool = True

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """out [B, S_q, heads, D_v]; attn_mask [B or 1, heads or 1, S_q or 1, S_k], bool or added to the scores."""
        return attention(query, key, value, pattern=Full(causal=is_causal), mask=attn_mask, scale=scale)  # type: ignore[no-any-return]


class AdaptiveNorm(nn.Module):
    """The residual x + gate * y, and its LayerNorm times 1 + scale plus shift; x and y [B, S, C]."""

    has_backward: bool = True
    can_torch_compile: bool = True

    def forward(
        self, x: Tensor, y: Tensor | None = None, gate: Tensor | None = None, scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(residual, normed), both [B, S, C]; gate, scale and shift [R, C], a row for B * S / R tokens each."""
        return adaptive_norm(x, y, gate=gate, scale=scale, shift=shift)


class LayerNorm(nn.Module):
    """torch.nn.LayerNorm over the last dimension, statistics in float32."""

    has_backward: bool = True
    can_torch_compile: bool = True
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        """Shaped like the input [..., C]."""
        tokens = input.reshape(1, -1, input.shape[-1])
        _, out = adaptive_norm(tokens, weight=self.weight, bias=self.bias, epsilon=self.eps)
        return out.view_as(input)


class RMSNorm(nn.Module):
    """torch.nn.RMSNorm over the last dimension, statistics in float32."""

    has_backward: bool = True
    can_torch_compile: bool = True
    weight: Tensor | None
    eps: float | None

    def forward(self, x: Tensor) -> Tensor:
        """Shaped like the input [..., C]."""
        epsilon = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        tokens = x.reshape(1, -1, x.shape[-1])
        _, out = adaptive_norm(tokens, norm="rms", weight=self.weight, epsilon=epsilon)
        return out.view_as(x)


class QKNormRope(nn.Module):
    """RMSNorm of every head of queries and keys, then the rotation of interleaved pairs by three axes of a video."""

    has_backward: bool = True
    can_torch_compile: bool = True
    q_weight: Tensor
    k_weight: Tensor
    eps: float

    def forward(
        self, query: Tensor, key: Tensor, tables: tuple[Tensor, Tensor, Tensor], grid: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, S, heads, D]; tables of time, height and width [positions, pairs, 2]: cosine, sine."""
        norm = QKNorm("rms", self.q_weight, self.k_weight, epsilon=self.eps)
        return qk_norm_rope(query, key, norm, Rope(tables), grid=grid)
