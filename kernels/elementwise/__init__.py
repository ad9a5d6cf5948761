"""Fused elementwise parts of a DiT block: query and key norm with 3D rotary embedding."""

from phys4d.kernels.elementwise.qk_norm_rope import QKNorm, norm_rope, qk_norm_rope
from phys4d.kernels.elementwise.reference import norm_rope_reference
from phys4d.kernels.elementwise.rope import Rope

__all__ = ["QKNorm", "Rope", "norm_rope", "norm_rope_reference", "qk_norm_rope"]
