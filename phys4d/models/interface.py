"""What a stage needs of a video model beside its backbone: a codec and a text encoder, each behind one protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Prediction:
    """One evaluation of the backbone on noisy latents.

    velocity: [B, C, T', H', W'], noise minus data; zero on latent frames that are held clean.
    clean: [B, C, T', H', W'], the data that the velocity points to; held latent frames are the given ones.
    hidden: one [B, tokens, width] tensor per tapped block, tokens in (T', H', W') order.
    """

    velocity: Tensor
    clean: Tensor
    hidden: tuple[Tensor, ...]


@dataclass(frozen=True)
class Grid:
    """Sizes of one clip as the backbone sees it: frames and pixels in, tokens out.

    token_stride is (frames, rows, columns) of pixels per token; the first token frame holds one video frame.
    """

    frames: int
    height: int
    width: int
    token_stride: tuple[int, int, int]

    @property
    def tokens(self) -> tuple[int, int, int]:
        """(T', H', W') of the token grid."""
        t, h, w = self.token_stride
        return (self.frames - 1) // t + 1, self.height // h, self.width // w


class Codec(Protocol):
    """Between video and latents. Frames come as 1 + k * temporal_stride; any other count is refused.

    channels: of the latents. temporal_stride, spatial_stride: frames, and rows or columns of pixels, of one latent.
    chunked: its modules that are evaluated chunk by chunk of a clip, if any. image_apart: whether a clip's first frame
    is encoded a second time (`encode_image`), for a model that was conditioned on an image beside the noisy latents.
    own: whether it is a diffusers module that is trained here and stored beside the backbone.
    Codecs derive from this class, and write `encode_image` and `image_frames` where that is more than its latent.
    """

    channels: int
    temporal_stride: int
    spatial_stride: int
    image_apart: bool
    own: bool = False

    @property
    def chunked(self) -> tuple[nn.Module, ...]: ...

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] in [-1, 1] -> normalised latents [B, C, T', H', W']; ValueError for sizes it cannot take."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T', H', W'] -> [B, 3, T, H, W], with gradients in the latents."""
        ...

    def encode_image(self, image: Tensor, frames: int) -> Tensor:
        """First frames [B, 3, 1, H, W] in [-1, 1] of clips of so many frames -> all that the model reads of them, as
        [B, C, image_frames, H', W']; here their latents."""
        return self.encode(image)

    def image_frames(self, latents: tuple[int, int, int]) -> int:
        """How many latent frames `encode_image` gives beside latents of this size (T', H', W'); here 1."""
        return 1


class TextEncoder(Protocol):
    """Between captions and the tokens that the backbone's cross-attention reads; `tokens` of them, `width` numbers
    each."""

    width: int
    tokens: int

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> [B, tokens, width], behind the last token what the model was trained with."""
        ...


def from_bytes(video: Tensor) -> Tensor:
    """RGB uint8 [B, T, H, W, 3] -> fp32 [B, 3, T, H, W] in [-1, 1], on the same device."""
    return video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def latent_shape(codec: Codec, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """[C, T', H', W'] of the latents of a clip of `size`, (frames, height, width), which the codec takes."""
    (frames, height, width), space = size, codec.spatial_stride
    return codec.channels, (frames - 1) // codec.temporal_stride + 1, height // space, width // space


def encode_clips(codec: Codec, video: Tensor) -> Tensor:
    """Video [B, 3, T, H, W] -> latents [B, C, T', H', W'], contiguous as those of a cache, since sums over them are
    rounded in the order of memory. Clips are encoded one by one: those beside a clip do not change its bits."""
    return torch.cat([codec.encode(clip[None].contiguous()) for clip in video]).contiguous()


def encode_first(codec: Codec, image: Tensor, frames: int) -> Tensor:
    """First frames [B, 3, 1, H, W] of clips of so many frames -> what generation is conditioned on (`first` of
    `Backbone.forward`), one by one: their latents, or with `image_apart` what `encode_image` gives."""
    if not codec.image_apart:
        return encode_clips(codec, image)
    return torch.cat([codec.encode_image(one[None].contiguous(), frames) for one in image]).contiguous()


def encode_for_cache(codec: Codec, video: Tensor) -> Tensor:
    """What a cache holds of clips: their latents, and with `image_apart` what is read of the image behind them."""
    latents = encode_clips(codec, video)
    first = (encode_first(codec, video[:, :, :1], video.shape[2]),) if codec.image_apart else ()
    return torch.cat([latents, *first], 2)


def first_frames(codec: Codec, latents: tuple[int, int, int]) -> int:
    """How many latent frames `encode_first` gives beside latents of this size (T', H', W')."""
    return codec.image_frames(latents) if codec.image_apart else 1


def cached_shape(codec: Codec, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The shape of one clip in `encode_for_cache`."""
    channels, *latents = latent_shape(codec, size)
    frames, height, width = latents
    behind = codec.image_frames((frames, height, width)) if codec.image_apart else 0
    return channels, frames + behind, height, width


def check_clip(video: Tensor, stride: tuple[int, int, int]) -> None:
    """ValueError unless video [B, C, T, H, W] has T = 1 + k * stride[0] and sides that are multiples of stride[1:]."""
    frames, height, width = video.shape[2:]
    check_size((frames, height, width), stride)


def check_size(size: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
    """ValueError unless (frames, height, width) are 1 + k * stride[0] and multiples of stride[1:]."""
    frames, height, width = size
    if frames < 1 or (frames - 1) % stride[0]:
        near = 1 + (frames - 1) // stride[0] * stride[0]
        raise ValueError(
            f"{frames} frames: this codec takes 1 + k * {stride[0]}, such as {near} or {near + stride[0]}, "
            "and would drop the rest"
        )
    if height % stride[1] or width % stride[2] or min(height, width) < 1:
        raise ValueError(f"{height}x{width} pixels: sides must be multiples of {stride[1]} and {stride[2]}")
