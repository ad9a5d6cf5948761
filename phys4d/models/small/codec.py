"""The trained codec of `small`: blocks of 4 frames x 8 x 8 pixels to 2 x 2 latents, by plain convolutions."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from phys4d.models.interface import Codec, check_clip

_FRAMES, _CUT, _HALF = 4, 4, 2
_BLOCK = 3 * _FRAMES * _CUT * _CUT  # numbers of a block of 4 frames x 4 x 4 pixels
_LEAST = 1e-4  # added to the mean square of a latent


class Residual(nn.Module):
    """Two 3 x 3 convolutions, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, h, w] -> the same shape."""
        out: Tensor = x + self.conv2(F.silu(self.conv1(F.silu(x))))
        return out


class SmallCodec(ModelMixin, ConfigMixin, Codec):  # type: ignore[misc]  # diffusers has no types
    """Four frames to one latent frame, each for itself; frame 0 alone is repeated into four.

    Latents lie 4 pixels apart; the 2 x 2 of a block, which are a token of the transformer, have mean square 1, whatever
    they show, so that latents need no statistics to be normalised and noise of deviation 1 covers them at sigma 1.

    channels: of the latents. widths: of the layers at 1/4 and at 1/8 of the height and width. layers: residual blocks
    at each, in the encoder and in the decoder.
    """

    temporal_stride = _FRAMES
    spatial_stride = _CUT
    chunked = ()
    image_apart = False
    own = True

    @register_to_config
    def __init__(self, channels: int = 16, widths: tuple[int, int] = (96, 160), layers: int = 2) -> None:
        super().__init__()
        self.channels = channels
        fine, coarse = widths
        self.encoder = nn.Sequential(
            nn.Conv2d(_BLOCK, fine, 3, padding=1), *(Residual(fine) for _ in range(layers)),
            nn.Conv2d(fine, coarse, _HALF, _HALF), *(Residual(coarse) for _ in range(layers)),
            nn.Conv2d(coarse, channels * _HALF * _HALF, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels * _HALF * _HALF, coarse, 3, padding=1), *(Residual(coarse) for _ in range(layers)),
            nn.Conv2d(coarse, fine * _HALF * _HALF, 1), nn.PixelShuffle(_HALF),
            *(Residual(fine) for _ in range(layers)), nn.Conv2d(fine, _BLOCK, 3, padding=1),
        )  # fmt: skip

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 1 + 4k, H, W] in [-1, 1] -> [B, channels, 1 + k, H / 4, W / 4], for sides that are multiples of 8;
        ValueError for other sizes."""
        check_clip(video, (_FRAMES, _CUT * _HALF, _CUT * _HALF))
        video = torch.cat([video[:, :, :1].expand(-1, -1, _FRAMES - 1, -1, -1), video], 2)
        blocks = video.unflatten(2, (-1, _FRAMES)).transpose(1, 2).flatten(2, 3)  # [B, 1 + k, 12, H, W]
        x = self.encoder(F.pixel_unshuffle(blocks.flatten(0, 1), _CUT))
        x = F.pixel_shuffle(x * (x.square().mean(1, keepdim=True) + _LEAST).rsqrt(), _HALF)
        return x.unflatten(0, blocks.shape[:2]).transpose(1, 2).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """[B, channels, 1 + k, h, w] -> [B, 3, 1 + 4k, 4h, 4w]; frame 0 is the last of its block's four frames."""
        b, _, t = latents.shape[:3]
        x = F.pixel_unshuffle(latents.transpose(1, 2).flatten(0, 1), _HALF)
        x = F.pixel_shuffle(self.decoder(x), _CUT)
        return x.view(b, t, 3, _FRAMES, *x.shape[2:]).transpose(1, 2).flatten(2, 3)[:, :, _FRAMES - 1 :]

    def forward(self, video: Tensor, noise: Tensor, scale: float) -> Tensor:
        """A clip [B, 3, 1 + 4k, H, W], encoded, disturbed by noise times scale, and decoded."""
        return self.decode(self.encode(video) + scale * noise)
