"""Inputs of attention over short rows, and its results by the definition and by torch."""

import math

import torch
import torch.nn.functional as F

from phys4d.kernels.attention import attention_reference
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope_reference

GRID = (5, 2, 3)


def inputs(device, dim=16, dtype=torch.float32, grid=GRID, batch=2, heads=3):
    """q, k, v, dout [B, S, heads, D], the first three leaves."""
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(batch, math.prod(grid), heads, dim, generator=generator).to(device, dtype) for _ in range(4)]
    return [t.requires_grad_() for t in made[:3]], made[3]


def norm_of(kind, dim, device, dtype=torch.float32):
    """A norm with trained weights, and these."""
    if kind is None:
        return None, []
    generator = torch.Generator().manual_seed(6)
    count = 4 if kind == "layer" else 2
    weights = [torch.randn(dim, generator=generator).to(device, dtype).requires_grad_() for _ in range(count)]
    return QKNorm(kind, *weights), weights


def rope_of(layout, dim, device, grid=GRID):
    channels = (dim // 2, dim // 4, dim // 4) if layout == "half" else (dim - 12, 4, 4)  # interleaved: four do not turn
    return Rope.make(grid, channels, layout=layout, device=device) if layout else None


def exactly(qkv, norm, rope, grid=GRID, **asked):
    q, k, v = qkv
    kind = norm.kind if norm else ""
    args = [
        (getattr(norm, f"{name}_weight", None), getattr(norm, f"{name}_bias", None), kind, 1e-6, rope, grid, 0)
        for name in "qk"
    ]
    return attention_reference(
        norm_rope_reference(q, *args[0]), norm_rope_reference(k, *args[1]), v, grid=grid, **asked
    )[0]


def doubled(norm, rope):
    """The same in float64, and its weights."""
    if rope is not None:
        time, height, width = (table.double() for table in rope.tables)
        rope = Rope((time, height, width), rope.layout)
    if norm is None:
        return None, rope, []
    found = [norm.q_weight, norm.k_weight, norm.q_bias, norm.k_bias]
    found = [t.detach().double().requires_grad_() for t in found if t is not None]
    return QKNorm(norm.kind, *found), rope, found


def by_torch(qkv, norm, rope, mask, grid=GRID):
    """Norm, rotation and attention as a model writes them: torch's own, each rounded to the dtype."""
    ready = []
    for name, x in zip("qk", qkv, strict=False):
        if norm is not None:
            weight, bias = getattr(norm, f"{name}_weight"), getattr(norm, f"{name}_bias")
            size = (x.shape[-1],)
            x = F.rms_norm(x, size, weight, 1e-6) if norm.kind == "rms" else F.layer_norm(x, size, weight, bias, 1e-6)
        if rope is not None:
            x = norm_rope_reference(x, None, None, "", 0.0, rope, grid, 0)
        ready.append(x.transpose(1, 2))
    return F.scaled_dot_product_attention(*ready, qkv[2].transpose(1, 2), attn_mask=mask).transpose(1, 2)


def worst(found, expected):
    return (found.double() - expected).abs().max().item()
