"""Spatiotemporal attention: one function for full, spatial, temporal and windowed patterns."""

from phys4d.kernels.attention.api import attention, explain
from phys4d.kernels.attention.backends import BackendChoice
from phys4d.kernels.attention.backward import attention_backward
from phys4d.kernels.attention.packed import attention_packed
from phys4d.kernels.attention.parts import part_of
from phys4d.kernels.attention.patterns import Full, Pattern, Spatial, Temporal, Window, allowed
from phys4d.kernels.attention.reference import attention_reference
from phys4d.kernels.attention.varlen import attention_varlen

__all__ = [
    "BackendChoice",
    "Full",
    "Pattern",
    "Spatial",
    "Temporal",
    "Window",
    "allowed",
    "attention",
    "attention_backward",
    "attention_packed",
    "attention_reference",
    "attention_varlen",
    "explain",
    "part_of",
]
