"""The network of the small depth teacher: a U-Net over single frames."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthUNet(nn.Module):
    """RGB in [-1, 1] and pixel position -> standardised log depth; any frame size.

    It computes at a half, a quarter and an eighth of the frame's sides. Blocks of 2 x 2 pixels are folded into channels
    first and unfolded last, because a U-Net on a CPU spends most of its time at full resolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            (
                nn.Conv2d(4 * 5, width, 3, 1, 1),
                nn.Conv2d(width, 2 * width, 3, 2, 1),
                nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            )
        )
        self.up = nn.ModuleList((nn.Conv2d(6 * width, 2 * width, 3, 1, 1), nn.Conv2d(3 * width, width, 3, 1, 1)))
        self.out = nn.Conv2d(width, 4, 3, 1, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        """rgb [N, 3, H, W] -> [N, H, W]."""
        height, width = rgb.shape[-2:]
        rows = torch.linspace(-1, 1, height, device=rgb.device)[:, None].expand(height, width)
        columns = torch.linspace(-1, 1, width, device=rgb.device)[None].expand(height, width)
        position = torch.stack((rows, columns)).expand(len(rgb), 2, height, width)
        x = F.pad(torch.cat((rgb, position), dim=1), (0, width % 2, 0, height % 2), mode="replicate")
        x, skips = F.pixel_unshuffle(x, 2), []
        for down in self.down:
            x = F.gelu(down(x))
            skips.append(x)
        for up, skip in zip(self.up, skips[1::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = F.gelu(up(torch.cat((x, skip), dim=1)))
        return F.pixel_shuffle(self.out(x), 2)[:, 0, :height, :width]
