"""Depth and motion heads: from the backbone's hidden tokens, and the latents it was given, to metres and pixels."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from phys4d.engine.config import Config
from phys4d.engine.limits import WIDTH
from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.integrate.diffusers import gathered
from phys4d.models.initial import draw_layers, draw_uniform
from phys4d.models.interface import Grid

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup


class HeadConfig(Config):
    """Shape and output scale of the heads, whose last layers give numbers y of about unit size.

    kind: "conv", a pyramid of convolutions over all tapped layers (DPT-like), or "linear", one linear map.
    width: channels of the conv heads at the latents' resolution.
    log_depth_mean, log_depth_std: depth = exp(log_depth_mean + log_depth_std * y) metres.
    motion_pixels: (du, dv) = motion_pixels * y pixels.
    motion_metres: dz = motion_metres * y metres.
    """

    kind: Literal["conv", "linear"] = "conv"
    width: int = Field(48, ge=8, le=WIDTH)
    log_depth_mean: float = math.log(2.2)
    log_depth_std: float = Field(0.35, gt=0)
    motion_pixels: float = Field(3.0, gt=0)
    motion_metres: float = Field(0.1, gt=0)


class TimestepModulation(nn.Module):
    """A non-affine LayerNorm, then a shift and a scale that depend on sigma; the identity modulation at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rate: Tensor
        self.register_buffer("rate", torch.exp(torch.linspace(0, 5, 32)), persistent=False)
        self.project = nn.Linear(65, 2 * width)
        self.reset()

    def reset(self) -> None:
        """The identity modulation."""
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, hidden: Tensor, sigma: Tensor) -> Tensor:
        """hidden [B, tokens, width], sigma [B] -> [B, tokens, width]."""
        angle = sigma[:, None].float() * self.rate
        features = torch.cat([angle.sin(), angle.cos(), sigma[:, None].float()], 1)
        scale, shift = self.project(features)[:, None].chunk(2, -1)
        return F.layer_norm(hidden, hidden.shape[-1:]) * (1 + scale) + shift


def _rows(hidden: Sequence[Tensor], noisy: Tensor) -> tuple[int, int]:
    """Rows and columns of tokens: a token is a square of latents in one latent frame.

    hidden: tapped tokens [B, T' h w, C]. noisy: the latents [B, C, T', H', W'].
    """
    frames, height, width = noisy.shape[2:]
    side = math.isqrt(frames * height * width // hidden[0].shape[1])
    return height // side, width // side


class LinearHead(nn.Module):
    """One linear map from the last tapped tokens to all pixels of each token (the paper authors' released head)."""

    def __init__(self, hidden: int, taps: int, latents: int, channels: int, grid: Grid, width: int) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.modulation = TimestepModulation(hidden)
        self.project = nn.Linear(hidden, channels * math.prod(grid.token_stride))

    def draw(self, *key: int | str) -> None:
        """Initial weights: Xavier's uniform distribution with gain 0.01, no bias, keyed by (*key, name)."""
        bound = 0.01 * math.sqrt(6 / sum(self.project.weight.shape))
        draw_uniform(self.project.weight, bound, *key, "project.weight")
        nn.init.zeros_(self.project.bias)

    def forward(self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor, begins: bool = True) -> Tensor:
        """Tapped tokens, noisy latents (not used), sigma [B], as in `ConvHead` -> [B, T, channels, H, W]."""
        st, sh, sw = self.grid.token_stride
        h, w = _rows(hidden, noisy)
        y = self.project(self.modulation(hidden[-1], sigma)).view(len(sigma), -1, h, w, st, self.channels, sh, sw)
        y = y.permute(0, 1, 4, 5, 2, 6, 3, 7).reshape(len(y), -1, self.channels, h * sh, w * sw)
        return y[:, st - 1 if begins else 0 :]


class ResidualUnit(nn.Module):
    """x + conv(gelu(conv(gelu(x)))), as in DPT's fusion blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] -> the same."""
        y = x
        for convolution in self.convolutions:
            y = convolution(F.gelu(y))
        return x + y


class ConvHead(nn.Module):
    """Every tapped layer projected, summed, spread over a token's frames, then doubled in size and thinned by
    convolutions, with a residual unit at each size between the tokens' and the pixels' (DPT-like).

    The backbone's patches are 2 x 2 latents, so the first doubling reaches the latents' resolution; there the noisy
    latents join as the finest layer, since tokens that predict a video need not keep where its edges are. A
    learned embedding says where in the image a token lies: rotary positions do not, and depth depends on it.
    Activations are channels-last, as tokens are.
    """

    def __init__(self, hidden: int, taps: int, latents: int, channels: int, grid: Grid, width: int) -> None:
        super().__init__()
        st, sh, sw = grid.token_stride
        if sh != sw or sh & (sh - 1) or sh < 4:
            raise ValueError(f"conv head: a token of {sh}x{sw} pixels; needs a square of 4, 8, 16, ... pixels")
        self.grid, self.width = grid, width
        self.modulations = nn.ModuleList(TimestepModulation(hidden) for _ in range(taps))
        self.projections = nn.ModuleList(nn.Linear(hidden, 2 * width * st) for _ in range(taps))
        self.place = nn.Parameter(torch.zeros(*grid.tokens[1:], 2 * width))
        self.edges = nn.Conv3d(latents, width * st, 1)
        sizes = [2 * width] + [max(8, width >> k) for k in range(sh.bit_length() - 2)] + [channels]
        self.doubling = nn.ModuleList(nn.Conv2d(n, 4 * m, 3, padding=1) for n, m in pairwise(sizes))
        self.refining = nn.ModuleList(ResidualUnit(m) for m in sizes[1:-1])

    @torch.no_grad()
    def draw(self, *key: int | str) -> None:
        """Initial weights: torch's defaults, a tenth of them in the last layer, keyed by (*key, name)."""
        draw_layers(self, *key)
        for modulation in self.modulations:
            assert isinstance(modulation, TimestepModulation)
            modulation.reset()
        for parameter in self.doubling[-1].parameters():
            parameter.mul_(0.1)

    def forward(self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor, begins: bool = True) -> Tensor:
        """Tapped tokens, noisy latents [B, C, T', H', W'], sigma [B] -> [B, T, channels, H, W].

        hidden, noisy, sigma: as above. begins: whether the latent frames are those from the first on, which holds one
        video frame, or later ones.
        """
        (h, w), st = _rows(hidden, noisy), self.grid.token_stride[0]
        layers = zip(self.projections, self.modulations, hidden, strict=True)
        tokens = torch.stack([project(modulate(x, sigma)) for project, modulate, x in layers]).sum(0)
        tokens = self._frames(tokens.view(len(noisy), -1, h, w, st, 2 * self.width), begins) + self._places(h, w)
        edges = self._frames(self.edges(noisy).permute(0, 2, 3, 4, 1).unflatten(-1, (st, self.width)), begins)
        y, batch = tokens.permute(0, 3, 1, 2), len(noisy)
        for k, (convolution, refine) in enumerate(zip(self.doubling[:-1], self.refining, strict=True)):
            y = F.pixel_shuffle(F.gelu(convolution(y)), 2)
            y = refine(y + edges.permute(0, 3, 1, 2) if k == 0 else y)
        return F.pixel_shuffle(self.doubling[-1](y), 2).unflatten(0, (batch, -1))

    def _places(self, h: int, w: int) -> Tensor:
        """The embedding of places [h, w, channels]: as it is trained at the size of `grid`, elsewhere interpolated, so
        that a place keeps its share of the image's height and width."""
        if self.place.shape[:2] == (h, w):
            return self.place
        image = self.place.permute(2, 0, 1)[None]
        return F.interpolate(image, (h, w), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)

    def _frames(self, groups: Tensor, begins: bool) -> Tensor:
        """[B, T', H, W, frames per group, C] -> [B T, H, W, C]; a clip's first group holds one frame, its last."""
        frames = groups.permute(0, 1, 4, 2, 3, 5).flatten(1, 2)
        return frames[:, groups.shape[4] - 1 if begins else 0 :].flatten(0, 1)


class GeometryHeads(nn.Module):
    """The depth head and the motion head over the same tapped tokens.

    config: shape and output scale; hidden: channels of a token; taps: how many layers are tapped; latents: channels of
    the codec; grid: sizes of a clip; others are taken, too. The initial weights depend on `seed` and on each
    parameter's name alone.

    Attribute group: a process group whose ranks each compute the latent frames of their part, since their activations
    are the largest of all; depth and motion are then gathered on every rank. None: each rank computes all frames.
    """

    def __init__(self, config: HeadConfig, hidden: int, taps: int, latents: int, grid: Grid, seed: int = 0) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.group: ProcessGroup | None = None
        head: type[ConvHead] | type[LinearHead] = ConvHead if config.kind == "conv" else LinearHead
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
        count, stride = noisy.shape[2], self.grid.token_stride[0]
        parts = Parts(count, dist.get_rank(self.group), dist.get_world_size(self.group), self.group)
        own, begins = parts.own, parts.own.start == 0
        hidden = tuple(x.unflatten(1, (count, -1))[:, own].flatten(1, 2) for x in hidden)
        whole = []
        for head in (self.depth, self.motion):
            frames = head(hidden, noisy[:, :, own], sigma, begins)
            size = frames.shape[2:]
            if begins:  # the first latent frame is filled up to the length of all others
                frames = F.pad(frames, (0, 0) * 3 + (stride - 1, 0))
            frames = gathered(frames.unflatten(1, (-1, stride)).flatten(2), parts)
            whole.append(frames.view(len(noisy), -1, *size)[:, stride - 1 :])
        return whole[0], whole[1]
