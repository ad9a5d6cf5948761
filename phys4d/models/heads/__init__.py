"""Depth and motion heads: from the backbone's hidden tokens, and the latents it was given, to metres and pixels.

A kind of head is one file, whose class has the arguments and the result of `conv.ConvHead`, and one line in
`geometry.KINDS`; `config.HeadConfig.kind` names it.
"""

from phys4d.models.heads.config import HeadConfig
from phys4d.models.heads.conv import ConvHead
from phys4d.models.heads.dpt import DPTHead
from phys4d.models.heads.geometry import GeometryHeads
from phys4d.models.heads.linear import LinearHead
from phys4d.models.heads.modulation import TimestepModulation
from phys4d.models.heads.residual import ResidualUnit

__all__ = [
    "ConvHead", "DPTHead", "GeometryHeads", "HeadConfig", "LinearHead", "ResidualUnit", "TimestepModulation",
]  # fmt: skip
