"""The autoencoder in less memory: diffusers' numbers to rounding, and what it takes."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from phys4d.engine.costs.memory import Peak
from phys4d.models.cogvideox import codec as codecs
from phys4d.models.cogvideox import layers
from phys4d.models.cogvideox.codec import CogVideoXCodec

SMALL = {
    "block_out_channels": (8, 8, 16, 16), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
    "sample_height": 64, "sample_width": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def stock() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLCogVideoX(**SMALL)
        for parameter in vae.parameters():  # norms, too, so that scale, shift and order of operations matter
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return vae.eval().requires_grad_(False)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("piece", [1, 3 * 8 * 16 * 24, 2**27])
@pytest.mark.parametrize("frames", [1, 9, 25])
def test_latents_and_pictures_are_those_of_diffusers_to_rounding(
    stock: Any, monkeypatch: pytest.MonkeyPatch, piece: int, frames: int
) -> None:
    """In fp64, with one frame at once, a few of the larger layers, and all of a chunk."""
    monkeypatch.setattr(layers, "PIECE", piece)
    vae = deepcopy(stock).double()
    ours = layers.in_less_memory(deepcopy(vae))
    video = noise(1, 3, frames, 16, 24)
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        torch.testing.assert_close(ours.encode(video).latent_dist.mode(), latents, rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.decode(latents).sample, vae.decode(latents).sample, rtol=0, atol=1e-12)


def test_a_chunk_takes_less(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "PIECE", 1)
    ours, latents = layers.in_less_memory(deepcopy(stock)), noise(1, 4, 3, 8, 8).float()
    peaks: list[int] = []
    for vae in (stock, ours):
        with torch.no_grad(), Peak([latents, *vae.parameters(), *vae.buffers()]) as peak:
            vae.decode(latents)
        peaks.append(peak.most)
    assert peaks[1] < 0.6 * peaks[0]


def test_a_gradient_takes_less_and_is_the_same(stock: Any) -> None:
    ours, latents = layers.in_less_memory(deepcopy(stock)), noise(1, 4, 5, 8, 8).float().requires_grad_()
    peaks, gradients = [], []
    for vae in (stock, ours):
        with Peak([latents, *vae.parameters(), *vae.buffers()]) as peak:
            gradients += torch.autograd.grad(vae.decode(latents).sample.square().sum(), latents)
        peaks.append(peak.most)
    assert peaks[1] < 0.5 * peaks[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4 * float(gradients[0].abs().max()))


def test_tiles_are_blended_and_encoding_is_of_whole_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import AutoencoderKLCogVideoX

    monkeypatch.setattr(codecs, "TILE", (48, 40))
    codec = CogVideoXCodec(SMALL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec._modules["vae"] = layers.in_less_memory(AutoencoderKLCogVideoX(**SMALL).eval().requires_grad_(False))
    latents = noise(1, 4, 3, 8, 10).float()
    whole, encoded = codec.decode(latents), codec.encode(noise(1, 3, 9, 64, 80).float())
    codec.use_tiling()
    tiled = codec.decode(latents)
    assert tiled.shape == whole.shape == (1, 3, 9, 64, 80)
    assert 0 < (tiled - whole).abs().mean() < 0.5 * whole.abs().mean()
    assert torch.equal(codec.encode(noise(1, 3, 9, 64, 80).float()), encoded)
