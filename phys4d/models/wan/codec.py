"""The Wan video autoencoder as a codec, with the normalisation that the transformers were trained on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.models.headers import read_json
from phys4d.models.interface import Codec, check_clip
from phys4d.models.progress_bars import without_progress_bars
from phys4d.models.wan.bands import decode_in_bands


class WanCodec(nn.Module, Codec):
    """diffusers' AutoencoderKLWan (Wan2.1: 4x8x8; Wan2.2-TI2V: 4x16x16), frozen; latents normalised per channel.

    It computes in fp32, as published, also where its weights are stored in bf16. They are read when it is first used,
    onto the device that it was moved to.

    It decodes one latent frame at a time, which is exact: what the convolutions need of earlier frames is kept.

    source: its folder, or, for a codec whose weights are set and not read, the table of its config.json.
    """

    image_apart = False

    def __init__(self, source: Path | dict[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKLWan

        with torch.device("meta"):  # for the defaults of what the configuration leaves out
            table = source if isinstance(source, dict) else read_json(source / "config.json")
            config = AutoencoderKLWan.from_config(table).config
        self.source = source
        self.tiled = False
        self.channels = config.z_dim
        self.temporal_stride = config.scale_factor_temporal
        self.spatial_stride = config.scale_factor_spatial
        shape = (1, -1, 1, 1, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config.latents_mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(config.latents_std).view(shape), persistent=False)

    @property
    def vae(self) -> Any:
        """The autoencoder with its weights, on this module's device."""
        if "vae" not in self._modules:
            from diffusers import AutoencoderKLWan

            assert isinstance(self.source, Path), "no folder to read weights from"
            with without_progress_bars():
                vae = AutoencoderKLWan.from_pretrained(self.source, torch_dtype=torch.float32, use_safetensors=True)
            self._modules["vae"] = vae.to(self.mean.device).eval().requires_grad_(False)
        return self._modules["vae"]

    @property
    def chunked(self) -> tuple[nn.Module, ...]:
        """Modules that are evaluated chunk by chunk of a clip."""
        return self.vae.encoder, self.vae.decoder

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 1 + 4k, H, W] in [-1, 1] -> the posterior's mode, normalised; ValueError where the autoencoder would
        silently drop frames or pixels."""
        check_clip(video, (self.temporal_stride, self.spatial_stride, self.spatial_stride))
        return (self.vae.encode(video).latent_dist.mode() - self.mean) / self.std

    def use_tiling(self) -> None:
        """From here on `decode` takes bands of rows, with the same numbers to rounding (`bands.decode_in_bands`)."""
        self.tiled = True

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents -> [B, 3, T, H, W], clamped to [-1, 1]; with gradients in the latents."""
        latents = latents * self.std + self.mean
        video: Tensor = decode_in_bands(self.vae, latents) if self.tiled else self.vae.decode(latents).sample
        return video
