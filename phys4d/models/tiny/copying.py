"""How `tiny` draws: what stands still is copied from the first frame, what moves is copied from where it was."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.models.tiny.haar import HaarCodec

_WAVES = 24
_PATCH = 4
_STRIDE = 2


class CopyGate(nn.Module):
    """Clean video = (1 - gate) first frame + gate moved, gate per pixel.

    `moved` copies 4 x 4 pixel patches of the first frame to each 4 x 4 block of each later frame, by attention: the
    transformer gives each block a spectrum over wave vectors, which is its distribution over displacements. So a small
    transformer spends its capacity on where things go, not on how they look; what the first frame does not show, it
    cannot draw.

    It takes `channels` outputs per latent position: 64 gate logits, and 4 frames x 48 for spectra. It has no weights.
    """

    channels = 64 + 4 * 2 * _WAVES

    def __init__(self) -> None:
        super().__init__()
        self.codec = HaarCodec()
        generator = torch.Generator().manual_seed(0)
        angle = torch.rand(_WAVES, generator=generator) * math.pi
        length = torch.logspace(math.log10(8.0), math.log10(160.0), _WAVES)
        self.waves: Tensor
        waves = 2 * math.pi / length[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, output: Tensor, first: Tensor) -> Tensor:
        """output [B, 256, T', h, w], first [B, 192, 1, h, w] clean -> clean latents [B, 192, T', h, w], frame 0
        given."""
        logits, spectra = output[:, :, 1:].split([64, 4 * 2 * _WAVES], 1)
        gate = torch.sigmoid(logits.permute(0, 2, 3, 4, 1)).unsqueeze(-2)
        still = self.codec.to_blocks(first)
        moved = self.moved(spectra, self.codec.decode(first)[:, :, 0])
        later = self.codec.from_blocks(still + gate * (moved - still))
        return torch.cat([first, later], 2)

    def moved(self, spectra: Tensor, frame: Tensor) -> Tensor:
        """spectra [B, 4 * 48, T', h, w], frame [B, 3, 4h, 4w] -> blocks [B, T', h, w, 3, 64] copied from the frame."""
        b, _, t, h, w = spectra.shape
        keys, patches = self._sources(frame)
        spectra = spectra.view(b, 4, 2, _WAVES, t, h, w).permute(0, 4, 1, 5, 6, 2, 3)
        real, imaginary = spectra[..., 0, :] + 0.25, spectra[..., 1, :]  # untrained: mostly the block's own place
        own = self._phases(h, w, _PATCH, frame)
        cos, sin = own.cos().view(h, w, -1), own.sin().view(h, w, -1)
        queries = torch.cat([real * cos + imaginary * sin, real * sin - imaginary * cos], -1)
        copied = F.scaled_dot_product_attention(
            queries.reshape(b, 1, -1, 2 * _WAVES), keys.repeat(b, 1, 1, 1), patches.unsqueeze(1), scale=1.0
        )
        blocks = copied.view(b, t, 4, h, w, 3, _PATCH * _PATCH).permute(0, 1, 3, 4, 5, 2, 6)
        return blocks.reshape(b, t, h, w, 3, 64)

    def _sources(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [K, 48] and patches [B, K, 48] of the first frame, at every second row and column."""
        patches = F.unfold(frame, _PATCH, stride=_STRIDE).transpose(1, 2).contiguous()
        rows, columns = ((n - _PATCH) // _STRIDE + 1 for n in frame.shape[-2:])
        phases = self._phases(rows, columns, _STRIDE, frame)
        return torch.cat([phases.cos(), phases.sin()], -1), patches

    def _phases(self, rows: int, columns: int, step: int, like: Tensor) -> Tensor:
        """[rows * columns, waves]: each wave's phase at a grid of positions `step` pixels apart."""
        y, x = torch.meshgrid(*(torch.arange(n, device=like.device) for n in (rows, columns)), indexing="ij")
        positions = torch.stack([x, y], -1).reshape(-1, 2).to(like) * step
        return positions @ self.waves.to(like).T
