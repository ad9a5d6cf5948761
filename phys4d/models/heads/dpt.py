"""The DPT head: several resolutions fused from coarse to fine, the coarse ones mixed over time."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.models.heads.chunks import in_chunks
from phys4d.models.heads.convolved import ConvolvedHead
from phys4d.models.heads.modulation import TimestepModulation
from phys4d.models.heads.residual import ResidualUnit
from phys4d.models.heads.temporal import TemporalBlock
from phys4d.models.heads.tokens import latent_frames, rows_of, token_side
from phys4d.models.interface import Grid

LEVELS = 4  # of 1/2, 1, 2 and 4 times the tokens' resolution


def taps_of_levels(taps: int) -> list[tuple[int, int]]:
    """(level, tap) of every projection: taps are spread over the levels evenly, the deepest on the coarsest level.

    With four taps each has a level of its own; with fewer a tap serves several levels, with more a level has several.
    """
    return [
        (level, taps - 1 - k)
        for level in range(LEVELS)
        for k in range(taps)
        if level * taps < (k + 1) * LEVELS and k * LEVELS < (level + 1) * taps
    ]


class DPTHead(ConvolvedHead):
    """Tapped layers at four resolutions, fused from coarse to fine (DPT, Ranftl et al. 2021), with attention over time
    at the two coarse ones (as in Video Depth Anything, Chen et al. 2025).

    Each level takes its tapped layers, projected. At 1/2 and 1 times the tokens' resolution it is of latent frames,
    which attend to each other; at 2 times, the latents' resolution, the noisy latents join as the finest layer; from 4
    times on it is of video frames. Convolutions then double the size down to the pixels, with channels that halve. A
    learned embedding says where in the image a token lies (`ConvolvedHead`).

    From 2 times on, latent frames are computed in chunks, which the backward pass computes again (`chunks.in_chunks`),
    so that memory does not grow with the length of a clip.
    """

    def __init__(self, hidden: int, taps: int, latents: int, channels: int, grid: Grid, width: int) -> None:
        super().__init__()
        side, st = token_side(grid, 8, "dpt"), grid.token_stride[0]
        self.grid, self.pairs = grid, taps_of_levels(taps)
        coarse, fine = 2 * width, max(8, width // 2)
        self.modulations = nn.ModuleList(TimestepModulation(hidden) for _ in range(taps))
        self.projections = nn.ModuleList(nn.Linear(hidden, coarse) for _ in self.pairs)
        self.lay_out(grid, coarse)
        self.halving = nn.Conv2d(coarse, coarse, 3, stride=2, padding=1)
        self.reassembling = nn.ModuleList([nn.Linear(coarse, 4 * width), nn.Linear(coarse, 16 * st * fine)])
        self.temporal = nn.ModuleList(TemporalBlock(coarse) for _ in range(2))
        self.edges = nn.Conv2d(latents, width, 1)
        sizes = [coarse, coarse, width, fine]
        self.joining = nn.ModuleList(ResidualUnit(size) for size in sizes[1:])
        self.fusing = nn.ModuleList(ResidualUnit(size) for size in sizes)
        rest = [max(8, fine >> k) for k in range(side.bit_length() - 3)] + [channels]
        doubling = [(coarse, width), (width, st * fine), *pairwise(rest)]
        self.doubling = nn.ModuleList(nn.Conv2d(n, 4 * m, 3, padding=1) for n, m in doubling)
        self.refining = nn.ModuleList(ResidualUnit(size) for size in rest[1:-1])

    def forward(
        self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor, own: slice | None = None
    ) -> Tensor:
        """Tapped tokens, noisy latents, sigma [B], latent frames, as in `ConvHead` -> [B, T, channels, H, W].

        The coarse levels are computed for all latent frames, which see each other, and the finer ones for `own`.
        """
        (h, w), count = rows_of(hidden, noisy), noisy.shape[2]
        own = own or slice(0, count)
        st, side, _ = self.grid.token_stride
        pixels = st * h * w * side**2
        tapped = [latent_frames(x, count, None) for x in hidden]
        levels = in_chunks(self._projected, [sigma[:, None].expand(-1, count), *tapped], True, pixels)
        half, whole, *finer = levels.unflatten(2, (h, w)).unbind(4)
        fused = self._mixed(half, whole)
        parts = [x[:, own] for x in (fused, *finer, noisy.transpose(1, 2))]
        return in_chunks(self._frames_of, parts, own.start == 0, pixels)

    def _projected(self, sigma: Tensor, *tapped: Any) -> Tensor:
        """sigma [B, T'], tapped tokens [B, T', h w, C] -> what the levels take of them, [B, T', h w, 4, channels]."""
        *layers, _ = tapped
        tokens = [
            modulate(x.flatten(1, 2), sigma[:, 0]) for modulate, x in zip(self.modulations, layers, strict=True)
        ]
        levels: list[Any] = [0] * LEVELS
        for (level, tap), project in zip(self.pairs, self.projections, strict=True):
            levels[level] = levels[level] + project(tokens[tap])
        return torch.stack(levels, 2).unflatten(1, layers[0].shape[1:3])

    def _mixed(self, half: Tensor, whole: Tensor) -> Tensor:
        """What the two coarse levels take, [B, T', h, w, channels] each -> the same: fused at the tokens' size."""
        batch, _, h, w, _ = whole.shape
        y = self.halving(_as_images(self.placed(half)))
        y = self.fusing[0](_as_images(self.temporal[0](_as_clips(y, batch))))
        y = F.interpolate(y, (h, w), mode="bilinear", align_corners=False)
        y = self.fusing[1](y + self.joining[0](_as_images(self.placed(whole))))
        mixed: Tensor = self.temporal[1](_as_clips(y, batch))
        return mixed

    def _frames_of(self, *parts: Any) -> Tensor:
        """Of latent frames: fused tokens and what the finer levels take, [B, T', h, w, channels] each, latents
        [B, T', C, H', W'], and whether they begin with a clip's first -> [B, T, channels, H, W]."""
        fused, twice, four, latents, begins = parts
        batch, st = len(fused), self.grid.token_stride[0]
        y = F.pixel_shuffle(F.gelu(self.doubling[0](_as_images(fused))), 2)
        level = F.pixel_shuffle(_as_images(self.reassembling[0](twice)), 2) + self.edges(latents.flatten(0, 1))
        y = self.fusing[2](y + self.joining[1](level))
        y = F.gelu(F.pixel_shuffle(self._video_frames(self.doubling[1](y), batch, st, begins), 2))
        level = self._video_frames(_as_images(self.reassembling[1](four)), batch, st, begins)
        y = self.fusing[3](y + self.joining[2](F.pixel_shuffle(level, 4)))
        for convolution, refine in zip(self.doubling[2:-1], self.refining, strict=True):
            y = refine(F.pixel_shuffle(F.gelu(convolution(y)), 2))
        return F.pixel_shuffle(self.doubling[-1](y), 2).unflatten(0, (batch, -1))

    def _video_frames(self, groups: Tensor, batch: int, st: int, begins: bool) -> Tensor:
        """[B T', frames per group C, H, W] -> [B T, C, H, W]; a clip's first group holds one frame, its last."""
        frames = groups.unflatten(1, (st, -1)).flatten(0, 1).unflatten(0, (batch, -1))
        return frames[:, st - 1 if begins else 0 :].flatten(0, 1)


def _as_images(x: Tensor) -> Tensor:
    """[B, T, h, w, C] -> [B T, C, h, w], channels last in memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def _as_clips(x: Tensor, batch: int) -> Tensor:
    """[B T, C, h, w] -> [B, T, h, w, C]."""
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1))
