"""The autoencoder of Wan2.1, with what image to video reads of the first frame."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan21.image import ImageEncoder, packed, packed_frames


class Wan21Codec(WanCodec):
    """`WanCodec`. With `image`, a first frame becomes the latents of a clip that is grey behind it, and its CLIP tokens
    (diffusers, pipelines/wan/pipeline_wan_i2v.py), one behind the other (`image.packed`).

    source: as of `WanCodec`. image: of image to video, whose backbone unpacks both.
    """

    def __init__(self, source: Path | dict[str, Any], image: ImageEncoder | None = None) -> None:
        super().__init__(source)
        self.image, self.image_apart = image, image is not None

    @torch.no_grad()
    def encode_image(self, image: Tensor, frames: int) -> Tensor:
        assert self.image is not None
        grey = image.new_zeros(*image.shape[:2], frames - 1, *image.shape[3:])
        return packed(self.encode(torch.cat([image, grey], 2)), self.image(image))

    def image_frames(self, latents: tuple[int, int, int]) -> int:
        assert self.image is not None
        return latents[0] + packed_frames((self.image.tokens, self.image.width), (self.channels, *latents))
