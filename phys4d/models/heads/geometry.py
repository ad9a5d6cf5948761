"""The depth head and the motion head of a world model, in metres and pixels."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.integrate.diffusers import gathered
from phys4d.models.heads.config import HeadConfig
from phys4d.models.heads.conv import ConvHead
from phys4d.models.heads.dpt import DPTHead
from phys4d.models.heads.linear import LinearHead
from phys4d.models.interface import Grid

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup

KINDS: dict[str, type[ConvHead] | type[DPTHead] | type[LinearHead]] = {
    "conv": ConvHead, "dpt": DPTHead, "linear": LinearHead,
}  # fmt: skip


class GeometryHeads(nn.Module):
    """The depth head and the motion head over the same tapped tokens.

    config: shape and output scale; hidden: channels of a token; taps: how many layers are tapped; latents: channels of
    the codec; grid: sizes of a clip; others are taken, too. The initial weights depend on `seed` and on each
    parameter's name alone.

    Attribute group: a process group whose ranks each compute the video frames of their part of the latent frames, since
    these activations are the largest of all; depth and motion are then gathered on every rank. None: each rank computes
    all frames.
    """

    def __init__(self, config: HeadConfig, hidden: int, taps: int, latents: int, grid: Grid, seed: int = 0) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.group: ProcessGroup | None = None
        head = KINDS[config.kind]
        self.depth = head(hidden, taps, latents, 1, grid, config.width)
        self.motion = head(hidden, taps, latents, 3, grid, config.width)
        for name, part in (("depth", self.depth), ("motion", self.motion)):
            part.draw(seed, "heads", name)
        scale = torch.tensor([config.motion_pixels, config.motion_pixels, config.motion_metres]).view(1, 3, 1, 1, 1)
        self.motion_scale: Tensor
        self.register_buffer("motion_scale", scale, persistent=False)

    def forward(self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Tapped tokens, the noisy latents they come from, sigma [B] -> depth [B, T, H, W] in metres and motion
        [B, 3, T-1, H, W] in (px, px, m)."""
        depth, motion = self._frames(hidden, noisy, sigma)
        log_depth = depth[:, :, 0] * self.config.log_depth_std + self.config.log_depth_mean
        return log_depth.exp(), motion[:, :-1].transpose(1, 2) * self.motion_scale

    def _frames(self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What both heads give for all frames of a clip: [B, T, 1, H, W] and [B, T, 3, H, W]."""
        if self.group is None or noisy.shape[2] < dist.get_world_size(self.group):
            return self.depth(hidden, noisy, sigma), self.motion(hidden, noisy, sigma)
        stride = self.grid.token_stride[0]
        parts = Parts(noisy.shape[2], dist.get_rank(self.group), dist.get_world_size(self.group), self.group)
        whole = []
        for head in (self.depth, self.motion):
            frames = head(hidden, noisy, sigma, parts.own)
            size = frames.shape[2:]
            if parts.own.start == 0:  # the first latent frame is filled up to the length of all others
                frames = F.pad(frames, (0, 0) * 3 + (stride - 1, 0))
            frames = gathered(frames.unflatten(1, (-1, stride)).flatten(2), parts)
            whole.append(frames.view(len(noisy), -1, *size)[:, stride - 1 :])
        return whole[0], whole[1]
