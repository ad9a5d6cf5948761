"""The video autoencoder of Open-Sora 1.2 as a codec: images to latents, then four frames of latents to one."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from phys4d.models.base_weights import without_weights
from phys4d.models.diffusers_folder import weights_name
from phys4d.models.headers import read_json, read_weights
from phys4d.models.interface import Codec, check_clip
from phys4d.models.opensora.temporal_vae import TemporalVAE

CHUNK = 17  # frames that are encoded together, as published: 5 latents
_FACTOR = 0.18215  # of latents of single images
_IMAGES = 4  # frames that the image autoencoder takes at once, as published
_IMAGE_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "sample_size": 512,
}  # fmt: skip
"""The autoencoder of SDXL, by the settings of diffusers' AutoencoderKL. The published config.json of Open-Sora's
autoencoder names the folder that it was taken from; its weights are in the same file as the rest."""


LATENTS = {"shift": [-0.10, 0.34, 0.27, 0.98], "scale": [3.85, 2.32, 2.33, 3.06]}
"""Mean and deviation of each channel of the latents, as published."""


class OpenSoraVAE(nn.Module):
    """Both autoencoders with the parameter names of the published file, and the normalisation of latents.

    table: config.json, whose `vae_2d` and `vae_temporal` may hold settings of `_IMAGE_VAE` and of `TemporalVAE` where
    they are not the published ones.
    """

    def __init__(self, table: dict[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        image, temporal = (table.get(part) or {} for part in ("vae_2d", "vae_temporal"))
        self.spatial_vae: Any = nn.Module()
        settings = _IMAGE_VAE | {k: image[k] for k in _IMAGE_VAE if k in image}
        self.spatial_vae.module = AutoencoderKL(**settings)
        known = ("filters", "blocks", "widths", "halves", "groups")
        self.temporal_vae = TemporalVAE(**{k: temporal[k] for k in known if k in temporal})
        channels = settings["latent_channels"]
        self.scale: Tensor
        self.shift: Tensor
        for name in ("scale", "shift"):
            numbers = table.get(name, LATENTS[name])
            if not isinstance(numbers, list) or len(numbers) != channels:
                raise ValueError(f"{name}: expected {channels} numbers, one for each channel, got {numbers}")
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1, 1))


class OpenSoraCodec(nn.Module, Codec):
    """Each frame by an image autoencoder (8 x 8 pixels), then chunks of frames by a causal one (4 frames to one
    latent, the first frame of a clip alone), frozen; latents normalised per channel.

    The first chunk is 17 frames, later ones 16. Up to 33 frames these are the chunks of the public code, which divides
    longer clips by 17 and begins each chunk with a latent of one frame: 51 frames are 15 latents there. Clips here are
    1 + 4k frames of 1 + k latents, so such sizes cannot be had.

    Convolutions over time see no later frame, but the norms between them are over all frames of a chunk: the latent of
    a clip's first frame is not that of the frame alone.

    It computes in fp32. Means of the latents' distributions are taken, where the public code draws. Weights are read
    when it is first used, onto the device that it was moved to.

    source: its folder, or, for a codec whose weights are set and not read, the table of its config.json.
    """

    temporal_stride = 4
    spatial_stride = 8
    image_apart = False

    def __init__(self, source: Path | dict[str, Any]) -> None:
        super().__init__()
        self.source = source
        table = source if isinstance(source, dict) else read_json(source / "config.json")
        self.channels = len(table.get("scale", LATENTS["scale"]))
        self.place: Tensor
        self.register_buffer("place", torch.empty(0), persistent=False)  # moves with the module

    @property
    def vae(self) -> Any:
        """The autoencoder with its weights, on this module's device."""
        if "vae" not in self._modules:
            assert isinstance(self.source, Path), "no folder to read weights from"
            with without_weights():
                vae = OpenSoraVAE(read_json(self.source / "config.json"))
            vae.load_state_dict(stored_weights(self.source), assign=True)
            self._modules["vae"] = vae.to(self.place.device).eval().requires_grad_(False)
        return self._modules["vae"]

    @property
    def chunked(self) -> tuple[nn.Module, ...]:
        """Modules that are evaluated chunk by chunk of a clip."""
        image, temporal = self.vae.spatial_vae.module, self.vae.temporal_vae
        return image.encoder, image.decoder, temporal.encoder, temporal.decoder

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 1 + 4k, H, W] in [-1, 1] -> [B, 4, 1 + k, H / 8, W / 8]; ValueError for other sizes."""
        check_clip(video, (self.temporal_stride, self.spatial_stride, self.spatial_stride))
        vae, frames = self.vae, video.transpose(1, 2).flatten(0, 1)
        images = [vae.spatial_vae.module.encode(part).latent_dist.mode() for part in frames.split(_IMAGES)]
        x = (torch.cat(images) * _FACTOR).unflatten(0, (len(video), -1)).transpose(1, 2)
        chunks = [vae.temporal_vae.encode(part) for part in x.split(chunks_of(x.shape[2], CHUNK), 2)]
        return (torch.cat(chunks, 2) - vae.shift) / vae.scale

    def decode(self, latents: Tensor) -> Tensor:
        """[B, 4, 1 + k, H', W'] -> [B, 3, 1 + 4k, 8 H', 8 W'], clamped to [-1, 1]; with gradients in the latents."""
        vae, latents = self.vae, latents * self.vae.scale + self.vae.shift
        sizes = chunks_of(1 + 4 * (latents.shape[2] - 1), CHUNK)
        parts = latents.split([-(-size // 4) for size in sizes], 2)
        x = torch.cat([vae.temporal_vae.decode(z, size) for z, size in zip(parts, sizes, strict=True)], 2)
        frames = (x / _FACTOR).transpose(1, 2).flatten(0, 1)
        images = torch.cat([vae.spatial_vae.module.decode(part).sample for part in frames.split(_IMAGES)])
        return images.unflatten(0, (len(latents), -1)).transpose(1, 2).clamp(-1, 1)


def stored_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by name, in fp32."""
    _, files = read_weights(folder, weights_name(folder), "weights of the autoencoder")
    return {name: tensor.float() for path in set(files.values()) for name, tensor in load_file(path).items()}


def chunks_of(frames: int, chunk: int) -> list[int]:
    """Frames of each chunk of a clip: `chunk` first, then chunk - 1 each, the last one what is left."""
    first = min(frames, chunk)
    whole, rest = divmod(frames - first, chunk - 1)
    return [first, *[chunk - 1] * whole, *([rest] if rest else [])]
