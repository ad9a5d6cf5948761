"""Layers of diffusers' AutoencoderKLCogVideoX in less memory: the same arithmetic, with fewer copies of a chunk."""

from collections.abc import Callable, Iterator
from itertools import chain
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (
    CogVideoXCausalConv3d,
    CogVideoXResnetBlock3D,
    CogVideoXSpatialNorm3D,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PIECE = 2**27
"""Numbers of the input that a convolution takes at once, at least those of one frame."""
Cache = dict[str, Any] | None


def in_less_memory(vae: nn.Module) -> nn.Module:
    """Changes the layers of an autoencoder, and returns it. With gradients they are right, too, and take what autograd
    keeps of the numbers that are changed in place.

    Convolutions take as many frames at once as `PIECE` allows, in place of a padded copy of all, and free what they
    kept of the chunk before. The norms of the decoder compute scale and shift at the size of the latents, not at that
    of the frames to which they are repeated, and keep nothing for the next chunk. What follows a norm is computed in
    place. Each norm takes its mean and deviation over all pixels of a chunk, as before.

    vae: an AutoencoderKLCogVideoX, with its weights or without.
    """
    for module in vae.modules():
        if type(module) in _FORWARDS:
            module.forward = MethodType(_FORWARDS[type(module)], module)  # type: ignore[method-assign]
        elif isinstance(module, nn.SiLU):
            module.inplace = True
    return vae


def _convolution(self: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Frames [B, C, T, H, W], the last ones of the chunk before (None: there is none) -> outputs, the last frames."""
    before = self.time_kernel_size - 1
    edge = inputs[:, :, :1].expand(-1, -1, before, -1, -1) if conv_cache is None else conv_cache
    frames = inputs.shape[2]
    size = max(1, PIECE // inputs[:, :, 0].numel())
    windows = (
        torch.cat([edge[:, :, t:], inputs[:, :, max(0, t - before) : t], inputs[:, :, t : t + size]], 2)
        for t in range(0, frames, size)
    )
    last = torch.cat([edge, inputs[:, :, -before:]], 2)[:, :, -before:].clone()
    return _in_a_row((self.conv(window) for window in windows), frames), last


def _in_a_row(parts: Iterator[Tensor], frames: int) -> Tensor:
    """Parts [B, C, t, H, W] of so many frames in one tensor, which is made when the first of them is there."""
    first = next(parts)
    if first.shape[2] == frames:
        return first
    out = first.new_empty(*first.shape[:2], frames, *first.shape[3:])
    start = 0
    for part in chain([first], parts):
        out[:, :, start : start + part.shape[2]] = part
        start += part.shape[2]
    return out


def _norm(self: Any, f: Tensor, zq: Tensor, conv_cache: Cache = None) -> tuple[Tensor, dict[str, Any]]:
    """Frames [B, C, T, H, W] normalised, times and plus what the latents [B, c, T', H', W'] say."""
    out: Tensor = self.norm_layer(f)
    scale, shift = self.conv_y.conv(zq), self.conv_b.conv(zq)
    frames = f.shape[2]
    alone = frames % 2 if frames > 1 else 0  # the first latent is of one frame
    for t in range(frames):
        place = 0 if t < alone else alone + (t - alone) * (zq.shape[2] - alone) // (frames - alone)
        factor, term = (F.interpolate(numbers[:, :, place], size=f.shape[-2:]) for numbers in (scale, shift))
        out[:, :, t].mul_(factor).add_(term)
    return out, {}


def _residual(
    self: Any, inputs: Tensor, temb: None = None, zq: Tensor | None = None, conv_cache: Cache = None
) -> tuple[Tensor, dict[str, Any]]:
    """A residual block; with gradients it keeps its inputs alone for the backward pass, which evaluates it again."""
    assert temb is None, "the video autoencoder has no timestep"
    known = conv_cache or {}
    if not (torch.is_grad_enabled() and inputs.requires_grad):
        return _of_residual(self, inputs, zq, known)
    made: tuple[Tensor, dict[str, Any]] = checkpoint(
        lambda: _of_residual(self, inputs, zq, dict(known)), use_reentrant=False, preserve_rng_state=False
    )
    return made


def _of_residual(self: Any, inputs: Tensor, zq: Tensor | None, known: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    hidden, kept = inputs, {}
    for norm, name in ((self.norm1, "conv1"), (self.norm2, "conv2")):
        hidden = norm(hidden) if zq is None else norm(hidden, zq)[0]
        hidden, kept[name] = getattr(self, name)(self.nonlinearity(hidden), known.pop(name, None))
    if self.in_channels != self.out_channels:
        assert not self.use_conv_shortcut
        inputs = self.conv_shortcut(inputs)
    return hidden.add_(inputs), kept


_FORWARDS: dict[type, Callable[..., Any]] = {
    CogVideoXCausalConv3d: _convolution,
    CogVideoXSpatialNorm3D: _norm,
    CogVideoXResnetBlock3D: _residual,
}
