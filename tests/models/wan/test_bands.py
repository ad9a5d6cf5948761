"""Decoding in bands of rows is decoding of whole frames, and a chunk of frames is decoded as in the whole clip."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan
from torch import Tensor

from phys4d.engine.costs.memory import Peak
from phys4d.models.wan import bands

WIDE = {"dim_mult": [1, 2, 2, 2], "num_res_blocks": 2, "z_dim": 4, "base_dim": 4}
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "Wan2.1": WIDE,
    "Wan2.2": WIDE | {
        "is_residual": True, "decoder_base_dim": 4, "patch_size": 2, "in_channels": 12, "out_channels": 12,
        "scale_factor_spatial": 16, "temperal_downsample": [False, True, True],
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=list(AUTOENCODERS))
def vae(request: pytest.FixtureRequest) -> Any:
    """In fp64, with random weights of all layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLWan.from_config(AUTOENCODERS[request.param])
        for parameter in vae.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return vae.eval().requires_grad_(False).double()


def latents(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("rows", [5, 16, 100])
def test_bands_are_exact(vae: Any, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Of 36 rows of latents, of which those of one band see 13 on each side."""
    monkeypatch.setattr(bands, "ROWS", rows)
    z = latents(2, 4, 3, 36, 2)
    whole = vae.decode(z).sample
    assert whole.std() > 0.1 and (whole.abs() < 1).double().mean() > 0.5
    torch.testing.assert_close(bands.decode_in_bands(vae, z), whole, rtol=0, atol=1e-13)


def test_bands_take_less(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "ROWS", 8)
    z, peaks = latents(1, 4, 2, 64, 4), []
    for decode in (lambda: vae.decode(z), lambda: bands.decode_in_bands(vae, z)):
        with Peak([z, *vae.parameters(), *vae.buffers()]) as peak:
            decode()
        peaks.append(peak.most)
    assert peaks[1] < 0.75 * peaks[0]


def whole_clip(self: Any, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
    """`WanResample.forward` on all frames of a clip: the first frame is neither doubled nor merged with others."""
    if self.mode == "upsample3d":
        later = self.time_conv(x[:, :, 1:])
        doubled = torch.stack(later.chunk(2, 1), 3).flatten(2, 3)
        x = torch.cat([x[:, :, :1], doubled], 2)
    frames = torch.stack([self.resample(frame) for frame in x.unbind(2)], 2)
    if self.mode == "downsample3d":
        return torch.cat([frames[:, :, :1], self.time_conv(frames)], 2)
    return frames


def test_chunks_of_frames_are_exact(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder and decoder evaluated once on a whole clip, without what chunks keep for one another."""
    z, video = latents(1, 4, 4, 3, 2), latents(1, 3, 13, 48, 32).clamp(-1, 1)
    encoded, decoded = vae.encode(video).latent_dist.mean, vae.decode(z).sample
    monkeypatch.setattr(autoencoder_kl_wan.WanResample, "forward", whole_clip)
    patch = vae.config.patch_size
    pixels = video if patch is None else autoencoder_kl_wan.patchify(video, patch)
    mean = vae.quant_conv(vae.encoder(pixels)).chunk(2, 1)[0]
    torch.testing.assert_close(encoded, mean, rtol=0, atol=1e-12)
    frames = vae.decoder(vae.post_quant_conv(z), first_chunk=True)
    frames = frames if patch is None else autoencoder_kl_wan.unpatchify(frames, patch)
    torch.testing.assert_close(decoded, frames.clamp(-1, 1), rtol=0, atol=1e-12)
