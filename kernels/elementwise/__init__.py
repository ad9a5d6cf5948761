"""Fused elementwise parts of a DiT block: norm and rotation of queries and keys; gate, residual, norm, modulation."""

from phys4d.kernels.elementwise.adaptive_norm import adaptive_norm
from phys4d.kernels.elementwise.adaptive_norm_reference import adaptive_norm_reference
from phys4d.kernels.elementwise.norm_rope import QKNorm, norm_rope, qk_norm_rope
from phys4d.kernels.elementwise.norm_rope_reference import norm_rope_reference
from phys4d.kernels.elementwise.rope import Rope
from phys4d.kernels.elementwise.token_rows import TokenRows

__all__ = [
    "QKNorm",
    "Rope",
    "TokenRows",
    "adaptive_norm",
    "adaptive_norm_reference",
    "norm_rope",
    "norm_rope_reference",
    "qk_norm_rope",
]
