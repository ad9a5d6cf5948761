"""The convolutional head."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.models.heads.chunks import in_chunks
from phys4d.models.heads.convolved import ConvolvedHead
from phys4d.models.heads.modulation import TimestepModulation
from phys4d.models.heads.residual import ResidualUnit
from phys4d.models.heads.tokens import latent_frames, rows_of, token_side
from phys4d.models.interface import Grid


class ConvHead(ConvolvedHead):
    """Every tapped layer projected, summed, spread over a token's frames, then doubled in size and thinned by
    convolutions, with a residual unit at each size between the tokens' and the pixels'.

    The backbone's patches are 2 x 2 latents, so the first doubling reaches the latents' resolution; there the noisy
    latents join as the finest layer, since tokens that predict a video need not keep where its edges are. Activations
    are channels-last, as tokens are. Latent frames are computed in chunks (`chunks.in_chunks`).
    """

    def __init__(self, hidden: int, taps: int, latents: int, channels: int, grid: Grid, width: int) -> None:
        super().__init__()
        side, st = token_side(grid, 4, "conv"), grid.token_stride[0]
        self.grid, self.width = grid, width
        self.modulations = nn.ModuleList(TimestepModulation(hidden) for _ in range(taps))
        self.projections = nn.ModuleList(nn.Linear(hidden, 2 * width * st) for _ in range(taps))
        self.lay_out(grid, 2 * width)
        self.edges = nn.Conv3d(latents, width * st, 1)
        sizes = [2 * width] + [max(8, width >> k) for k in range(side.bit_length() - 2)] + [channels]
        self.doubling = nn.ModuleList(nn.Conv2d(n, 4 * m, 3, padding=1) for n, m in pairwise(sizes))
        self.refining = nn.ModuleList(ResidualUnit(m) for m in sizes[1:-1])

    def forward(
        self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor, own: slice | None = None
    ) -> Tensor:
        """Tapped tokens, noisy latents [B, C, T', H', W'], sigma [B] -> [B, T, channels, H, W].

        hidden, noisy, sigma: as above, of whole clips. own: the latent frames whose video frames are returned; None:
        all. The first of a clip holds one video frame.
        """
        (h, w), count, own = rows_of(hidden, noisy), noisy.shape[2], own or slice(0, noisy.shape[2])
        levels = sigma[:, None].expand(-1, own.stop - own.start)
        parts = [levels, noisy[:, :, own].transpose(1, 2), *(latent_frames(x, count, own) for x in hidden)]
        st, side, _ = self.grid.token_stride
        return in_chunks(self._frames_of, parts, own.start == 0, st * h * w * side**2)

    def _frames_of(self, *parts: Any) -> Tensor:
        """sigma [B, T'], latents [B, T', C, H', W'], tapped tokens [B, T', h w, C], and whether the first latent frame
        is a clip's first."""
        levels, latents, *hidden, begins = parts
        noisy, sigma, tapped = latents.transpose(1, 2), levels[:, 0], [x.flatten(1, 2) for x in hidden]
        (h, w), st = rows_of(tapped, noisy), self.grid.token_stride[0]
        layers = zip(self.projections, self.modulations, tapped, strict=True)
        tokens = torch.stack([project(modulate(x, sigma)) for project, modulate, x in layers]).sum(0)
        tokens = self._frames(tokens.view(len(noisy), -1, h, w, st, 2 * self.width), begins)
        tokens = self.placed(tokens)
        edges = self._frames(self.edges(noisy).permute(0, 2, 3, 4, 1).unflatten(-1, (st, self.width)), begins)
        y, batch = tokens.permute(0, 3, 1, 2), len(noisy)
        for k, (convolution, refine) in enumerate(zip(self.doubling[:-1], self.refining, strict=True)):
            y = F.pixel_shuffle(F.gelu(convolution(y)), 2)
            y = refine(y + edges.permute(0, 3, 1, 2) if k == 0 else y)
        return F.pixel_shuffle(self.doubling[-1](y), 2).unflatten(0, (batch, -1))

    def _frames(self, groups: Tensor, begins: bool) -> Tensor:
        """[B, T', H, W, frames per group, C] -> [B T, H, W, C]; a clip's first group holds one frame, its last."""
        frames = groups.permute(0, 1, 4, 2, 3, 5).flatten(1, 2)
        return frames[:, groups.shape[4] - 1 if begins else 0 :].flatten(0, 1)
