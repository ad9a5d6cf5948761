"""Decoding by Wan's autoencoder in bands of rows: the same numbers to rounding, in less memory.

The middle block, which attends to the whole of a frame, is evaluated on whole frames, of latents. Every layer behind it
sees a few rows above and below: a band is evaluated, for all frames of the clip, with as many rows beside it as the
layers that follow see, and those that were computed with zeros in place of a neighbour are dropped behind each block.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor

ROWS = 16
"""Rows of latents in a band. The layers behind the middle block see 13 rows on each side, most of them few."""
Rows = tuple[int, int]


def decode_in_bands(vae: Any, latents: Tensor) -> Tensor:
    """Video [B, 3, T, H, W] in [-1, 1] by an AutoencoderKLWan, of raw latents [B, C, T', H', W']."""
    decoder, (frames, height) = vae.decoder, latents.shape[2:4]
    whole: list[Any] = [None] * sum(type(part).__name__ == "WanCausalConv3d" for part in decoder.modules())
    middle, first = [], 0
    for x in vae.post_quant_conv(latents).split(1, 2):
        place = [0]
        x = _convolved(decoder.conv_in, x, whole, place)
        middle.append(decoder.mid_block(x, feat_cache=whole, feat_idx=place))
        first = place[0]
    count, whole = len(whole), []
    bands = []
    for top in range(0, height, ROWS):
        layers = _layers(decoder, (top, min(top + ROWS, height)), height)
        cache: list[Any] = [None] * count
        parts = [_evaluated(layers, middle[t], cache, [first], first_chunk=t == 0) for t in range(frames)]
        bands.append(torch.cat(parts, 2))
    video = torch.cat(bands, -2)
    if vae.config.patch_size is not None:
        video = unpatchify(video, patch_size=vae.config.patch_size)
    return video.clamp(-1, 1)


def _layers(decoder: Any, band: Rows, height: int) -> list[tuple[Any, Rows, Rows]]:
    """(layer, rows of the input that it takes, rows of its output that are kept) of the layers behind the middle block,
    by which the band's rows of latents become finished ones."""

    def head(x: Tensor, feat_cache: list[Any], feat_idx: list[int], **others: bool) -> Tensor:
        return _convolved(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(x)), feat_cache, feat_idx)

    doubled = [_doubles(block) for block in decoder.up_blocks]
    scale = 2 ** sum(doubled)
    height, (low, high) = height * scale, (row * scale for row in band)
    blocks = [(block, twice, 2 * len(block.resnets)) for block, twice in zip(decoder.up_blocks, doubled, strict=True)]
    layers: list[tuple[Any, Rows, Rows]] = []
    for layer, doubles, seen in ((head, False, 1), *reversed(blocks)):
        kept = low, high
        if doubles:  # and a convolution behind it
            low, high, height = (low - 1) // 2, -(-(high + 1) // 2), height // 2
        low, high = max(0, low - seen), min(height, high + seen)
        layers.append((layer, (low, high), kept))
    return layers[::-1]


def _doubles(block: Any) -> bool:
    """Whether a block of either generation doubles the rows behind its residual blocks."""
    return getattr(block, "upsampler", None) is not None or getattr(block, "upsamplers", None) is not None


def _evaluated(
    layers: list[tuple[Callable[..., Tensor], Rows, Rows]], x: Tensor, cache: list[Any], place: list[int], *,
    first_chunk: bool,
) -> Tensor:  # fmt: skip
    """Frames of one latent frame x [B, C, 1, H', W'] through the layers; cache: of what came before in this band."""
    above = 0
    for layer, (low, high), (top, bottom) in layers:
        x = x[..., low - above : high - above, :]
        out = layer(x, feat_cache=cache, feat_idx=place, first_chunk=first_chunk)
        above = low * (out.shape[-2] // x.shape[-2])
        x, above = out[..., top - above : bottom - above, :], top
    return x


def _convolved(convolution: Any, x: Tensor, cache: list[Any], place: list[int]) -> Tensor:
    """A causal convolution that keeps its last two input frames for the next latent frame."""
    before, kept = cache[place[0]], x[:, :, -2:].clone()
    if kept.shape[2] < 2 and before is not None:
        kept = torch.cat([before[:, :, -1:], kept], 2)
    out: Tensor = convolution(x, before)
    cache[place[0]] = kept
    place[0] += 1
    return out
