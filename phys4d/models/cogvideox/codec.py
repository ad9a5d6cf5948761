"""The CogVideoX video autoencoder as a codec, with the scale of latents that the transformers were trained at."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.models.cogvideox.layers import in_less_memory
from phys4d.models.headers import read_json
from phys4d.models.interface import Codec, check_clip
from phys4d.models.progress_bars import without_progress_bars

FRAMES = 8  # of a clip, beyond the first: pairs of latent frames are decoded together
TILE = (240, 360)  # pixels, of the published autoencoder: sixths and fifths of them, which overlap, are whole latents


class CogVideoXCodec(nn.Module, Codec):
    """diffusers' AutoencoderKLCogVideoX (4x8x8), frozen; latents times its scaling factor.

    It computes in fp32, also where its weights are stored in bf16. They are read when it is first used, onto the device
    that it was moved to.

    It encodes 8 frames at once, 9 at the beginning, and decodes 2 latent frames at once, 3 at the beginning. An even
    number of latent frames would be decoded to four frames each, the first one included, so clips of 1 + 8k frames are
    taken. These are the chunks of the published model, whose norms are over all frames of one. Within a chunk, layers
    are evaluated in less memory than diffusers takes (`layers.in_less_memory`), which changes rounding alone.

    source: its folder, or, for a codec whose weights are set and not read, the table of its config.json. image_apart:
    whether the transformer reads the latent of an image (I2V); the frames behind the first have a part in the first
    latent frame, by the norms over all frames that are encoded at once.
    """

    def __init__(self, source: Path | dict[str, Any], *, image_apart: bool = False) -> None:
        super().__init__()
        from diffusers import AutoencoderKLCogVideoX

        with torch.device("meta"):  # for the defaults of what the configuration leaves out
            table = source if isinstance(source, dict) else read_json(source / "config.json")
            config = AutoencoderKLCogVideoX.from_config(table).config
        self.source, self.image_apart, self.tiled = source, image_apart, False
        self.channels = config.latent_channels
        self.temporal_stride = int(config.temporal_compression_ratio)
        self.spatial_stride = 2 ** (len(config.block_out_channels) - 1)
        self.scaling = float(config.scaling_factor)
        self.image_scale = 1 / self.scaling**2 if config.invert_scale_latents else 1.0
        """Factor from these latents to those of the image that I2V reads: a model with `invert_scale_latents` was
        trained on image latents divided by the scaling factor."""
        self.place: Tensor
        self.register_buffer("place", torch.empty(0), persistent=False)  # moves with the module

    @property
    def vae(self) -> Any:
        """The autoencoder with its weights, on this module's device."""
        if "vae" not in self._modules:
            from diffusers import AutoencoderKLCogVideoX

            assert isinstance(self.source, Path), "no folder to read weights from"
            with without_progress_bars():
                vae = AutoencoderKLCogVideoX.from_pretrained(
                    self.source, torch_dtype=torch.float32, use_safetensors=True
                )
            self._modules["vae"] = in_less_memory(vae).to(self.place.device).eval().requires_grad_(False)
        return self._modules["vae"]

    @property
    def chunked(self) -> tuple[nn.Module, ...]:
        """Modules that are evaluated chunk by chunk of a clip."""
        return self.vae.encoder, self.vae.decoder

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 1 + 8k, H, W] in [-1, 1] -> the posterior's mode, scaled; ValueError where the autoencoder would give
        another number of frames back, or drop pixels."""
        check_clip(video, (FRAMES, self.spatial_stride, self.spatial_stride))
        return self.scaling * self.vae.encode(video).latent_dist.mode()

    def use_tiling(self) -> None:
        """From here on `decode` takes tiles of `TILE` pixels, which overlap by a sixth and a fifth, and blends them.

        That is not exact: a norm is over the pixels of a tile, in place of those of whole frames.
        """
        self.tiled = True

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents -> [B, 3, T, H, W], with gradients in the latents; ValueError for an even number of latent
        frames."""
        if latents.shape[2] % 2 == 0:
            raise ValueError(f"{latents.shape[2]} latent frames: CogVideoX decodes an odd number, clips of 1 + 8k")
        if self.tiled:
            self.vae.enable_tiling(*TILE)
        try:
            video: Tensor = self.vae.decode(latents / self.scaling).sample
            return video
        finally:
            self.vae.disable_tiling()
