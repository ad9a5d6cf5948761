"""Which flow vectors can be trusted, from flow alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.kernels.geometry.shapes import expect_floating, expect_shape


def forward_backward_mask(
    forward: Tensor, backward: Tensor, *, relative: float = 0.01, absolute: float = 0.5
) -> Tensor:
    """Keeps pixels whose forward flow, followed by the backward flow found there, returns near its start.

        |f + b(x + f)|^2 < relative * (|f|^2 + |b(x + f)|^2) + absolute

    The criterion of Sundaram et al. 2010 and UnFlow (Meister et al. 2018) with their constants, also used by
    the Phys4D authors' Sim4VideoGen.

    Args:
        forward: [B, 2, H, W], pixels, t to t + 1 (float32 or float64).
        backward: [B, 2, H, W], pixels, t + 1 to t.
        relative: share of the squared lengths that is forgiven.
        absolute: squared pixels that are forgiven.

    Returns:
        bool [B, H, W]; False also where the pixel leaves the image.

    Raises:
        ValueError: a shape or dtype that does not fit, naming the argument.
    """
    expect_shape("forward", forward, ("B", 2, "H", "W"))
    expect_floating("forward", forward)
    expect_shape("backward", backward, forward.shape)
    height, width = forward.shape[-2:]
    v = torch.arange(height, dtype=forward.dtype, device=forward.device)[:, None] + 0.5
    u = torch.arange(width, dtype=forward.dtype, device=forward.device)[None, :] + 0.5
    landed_u, landed_v = u + forward[:, 0], v + forward[:, 1]
    inside = (landed_u > 0) & (landed_u < width) & (landed_v > 0) & (landed_v < height)
    grid = torch.stack((landed_u / width * 2 - 1, landed_v / height * 2 - 1), dim=-1)
    returned = F.grid_sample(backward, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gap = (forward + returned).square().sum(dim=1)
    lengths = forward.square().sum(dim=1) + returned.square().sum(dim=1)
    return inside & (gap < relative * lengths + absolute)
