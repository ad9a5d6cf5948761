"""The table [model.heads] of a run file."""

import math
from typing import Literal

from pydantic import Field

from phys4d.engine.config import Config
from phys4d.engine.limits import WIDTH


class HeadConfig(Config):
    """Shape and output scale of the heads, whose last layers give numbers y of about unit size.

    kind: "conv", a pyramid of convolutions over all tapped layers; "dpt", several resolutions fused from coarse to
        fine, the coarse ones mixed over time; or "linear", one linear map.
    width: channels of the conv and dpt heads at the latents' resolution.
    log_depth_mean, log_depth_std: depth = exp(log_depth_mean + log_depth_std * y) metres.
    motion_pixels: (du, dv) = motion_pixels * y pixels.
    motion_metres: dz = motion_metres * y metres.
    """

    kind: Literal["conv", "dpt", "linear"] = "conv"
    width: int = Field(48, ge=8, le=WIDTH)
    log_depth_mean: float = math.log(2.2)
    log_depth_std: float = Field(0.35, gt=0)
    motion_pixels: float = Field(3.0, gt=0)
    motion_metres: float = Field(0.1, gt=0)
