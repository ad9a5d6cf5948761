"""The temporal half of Open-Sora 1.2's video autoencoder, with the parameter names of its published weights."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv(nn.Module):
    """A 3D convolution whose output frame depends on no later input frame; zeros stand before the first frame.

    channels, out, bias: as of nn.Conv3d. kernel: of time, height and width alike, odd. stride: of time.
    """

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        side = kernel // 2
        self.padding = (side, side, side, side, kernel - stride, 0)
        self.conv = nn.Conv3d(channels, out, kernel, (stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, H, W] -> [B, out, T / stride, H, W]."""
        out: Tensor = self.conv(F.pad(x, self.padding))
        return out


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution twice, added to the input, which a convolution brings to as many channels."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels), CausalConv(channels, out, 3, bias=False)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out), CausalConv(out, out, 3, bias=False)
        self.conv3 = CausalConv(channels, out, 1, bias=False) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, H, W] -> [B, out, T, H, W]."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        out: Tensor = y + self.conv3(x)
        return out


def _blocks(channels: int, out: int, count: int, groups: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(channels if k == 0 else out, out, groups) for k in range(count))


class Encoder(nn.Module):
    """Latents of single frames -> moments of latents of `stride` frames each, at the same height and width."""

    def __init__(
        self, channels: int, moments: int, filters: int, blocks: int, widths: Sequence[int], halves: Sequence[bool],
        groups: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv_in = CausalConv(channels, filters, 3, bias=False)
        self.block_res_blocks, self.conv_blocks = nn.ModuleList(), nn.ModuleList()
        width = filters
        for k, multiple in enumerate(widths):
            self.block_res_blocks.append(_blocks(width, filters * multiple, blocks, groups))
            width = filters * multiple
            if k < len(widths) - 1:
                self.conv_blocks.append(CausalConv(width, width, 3, stride=2) if halves[k] else nn.Identity())
        self.res_blocks = _blocks(width, width, blocks, groups)
        self.norm1, self.conv2 = nn.GroupNorm(groups, width), CausalConv(width, moments, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, H, W], T a multiple of the stride -> [B, moments, T / stride, H, W]."""
        x = self.conv_in(x)
        for k, blocks in enumerate(self.block_res_blocks):
            x = _through(blocks, x)
            if k < len(self.conv_blocks):
                x = self.conv_blocks[k](x)
        x = _through(self.res_blocks, x)
        out: Tensor = self.conv2(F.silu(self.norm1(x)))
        return out


class Decoder(nn.Module):
    """The reverse of `Encoder`, from latents; a doubling of frames is a convolution to twice the channels."""

    def __init__(
        self, channels: int, latents: int, filters: int, blocks: int, widths: Sequence[int], doubles: Sequence[bool],
        groups: int,
    ) -> None:  # fmt: skip
        super().__init__()
        width = filters * widths[-1]
        self.conv1 = CausalConv(latents, width, 3)
        self.res_blocks = _blocks(width, width, blocks, groups)
        stages, steps = [], []
        for k in reversed(range(len(widths))):
            stages.append(_blocks(width, filters * widths[k], blocks, groups))
            width = filters * widths[k]
            if k > 0:
                steps.append(CausalConv(width, 2 * width, 3) if doubles[k - 1] else nn.Identity())
        self.block_res_blocks, self.conv_blocks = nn.ModuleList(stages[::-1]), nn.ModuleList(steps[::-1])
        self.norm1, self.conv_out = nn.GroupNorm(groups, width), CausalConv(width, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, latents, T, H, W] -> [B, channels, T stride, H, W]."""
        x = _through(self.res_blocks, self.conv1(x))
        for k in reversed(range(len(self.block_res_blocks))):
            x = _through(self.block_res_blocks[k], x)
            if k > 0:
                x = _doubled(self.conv_blocks[k - 1], x)
        out: Tensor = self.conv_out(F.silu(self.norm1(x)))
        return out


def _through(blocks: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        x = block(x)
    return x


def _doubled(convolution: nn.Module, x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, C, 2T, H, W], frame 2t + s from channel 2c + s; as it is where nothing is doubled."""
    x = convolution(x)
    if isinstance(convolution, nn.Identity):
        return x
    return x.unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(2, 3)


class TemporalVAE(nn.Module):
    """Four latents of single frames to one (`VAE_Temporal_SD` of the public opensora/models/vae/vae_temporal.py).

    channels: of latents of single frames and of those it makes. filters: channels at the widest time; blocks: residual
    blocks at each; widths: multiples of `filters`; halves: after which of them the frames are halved; groups: of norms.
    """

    def __init__(
        self, channels: int = 4, filters: int = 128, blocks: int = 4, widths: Sequence[int] = (1, 2, 2, 4),
        halves: Sequence[bool] = (False, True, True), groups: int = 32,
    ) -> None:  # fmt: skip
        super().__init__()
        shape = (filters, blocks, widths, halves, groups)
        self.stride = 2 ** sum(halves)
        self.encoder, self.decoder = Encoder(channels, 2 * channels, *shape), Decoder(channels, channels, *shape)
        self.quant_conv, self.post_quant_conv = (CausalConv(n, n, 1) for n in (2 * channels, channels))

    def encode(self, x: Tensor) -> Tensor:
        """[B, channels, T, H, W] -> the mean of the latents' distribution [B, channels, ceil(T / stride), H, W]; zeros
        stand before the first frame, up to a multiple of the stride."""
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.stride, 0))
        mean: Tensor = self.quant_conv(self.encoder(x)).chunk(2, 1)[0]
        return mean

    def decode(self, latents: Tensor, frames: int) -> Tensor:
        """[B, channels, ceil(frames / stride), H, W] -> [B, channels, frames, H, W]: the last ones."""
        decoded: Tensor = self.decoder(self.post_quant_conv(latents))
        return decoded[:, :, -frames % self.stride :]
