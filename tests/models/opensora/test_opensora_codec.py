"""The video autoencoder: its equations, its chunks, its normalisation, and what it refuses."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from phys4d.models.opensora.codec import OpenSoraCodec, OpenSoraVAE, chunks_of
from tests.models.opensora import equations

GROUPS = 4


@pytest.fixture(scope="module")
def codec(opensora: Path) -> OpenSoraCodec:
    """In fp64, with weights that let the first layers be heard."""
    codec = OpenSoraCodec(opensora / "vae")
    torch.manual_seed(1)
    for parameter in codec.vae.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    codec.vae.double()
    return codec


def images(codec: OpenSoraCodec, video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> the image autoencoder's latents of each frame [B, 4, T, H / 8, W / 8]."""
    frames = [codec.vae.spatial_vae.module.encode(frame).latent_dist.mode() for frame in video.unbind(2)]
    return 0.18215 * torch.stack(frames, 2)


@torch.no_grad()
def test_a_chunk_is_encoded_and_decoded_as_the_equations_say(codec: OpenSoraCodec) -> None:
    """Three frames of zeros stand before the first; those that are decoded in their place are dropped."""
    video = torch.rand(2, 3, 17, 16, 32, dtype=torch.float64) * 2 - 1
    weights = codec.vae.temporal_vae.state_dict()
    padded = torch.nn.functional.pad(images(codec, video), (0, 0, 0, 0, 3, 0))
    raw = equations.temporal_encode(weights, padded, GROUPS)
    shift, scale = torch.tensor([-0.1, 0.34, 0.27, 0.98]), torch.tensor([0.85, 0.32, 0.33, 0.6])
    latents = codec.encode(video)
    assert latents.shape == (2, 4, 5, 2, 4) and latents.std() > 0.1
    torch.testing.assert_close(latents, (raw - shift.view(4, 1, 1, 1)) / scale.view(4, 1, 1, 1), rtol=1e-6, atol=1e-6)
    frames = equations.temporal_decode(weights, raw, GROUPS)[:, :, 3:].unbind(2)
    decoded = [codec.vae.spatial_vae.module.decode(frame / 0.18215).sample for frame in frames]
    assert torch.stack(decoded, 2).std() > 0.1
    torch.testing.assert_close(codec.decode(latents), torch.stack(decoded, 2).clamp(-1, 1), rtol=1e-6, atol=1e-6)


def test_the_first_chunk_is_17_frames_and_later_ones_16() -> None:
    """Up to 33 frames these are the published chunks; each is a whole number of latents after the first frame's."""
    assert [chunks_of(frames, 17) for frames in (1, 5, 17, 21, 33, 49, 53)] == [
        [1], [5], [17], [17, 4], [17, 16], [17, 16, 16], [17, 16, 16, 4]
    ]  # fmt: skip


@torch.no_grad()
def test_chunks_do_not_see_each_other(codec: OpenSoraCodec) -> None:
    video = torch.rand(1, 3, 25, 16, 16, dtype=torch.float64) * 2 - 1
    other = torch.cat([video[:, :, :17], torch.rand(1, 3, 8, 16, 16, dtype=torch.float64)], 2)
    a, b = codec.encode(video), codec.encode(other)
    assert a.shape == (1, 4, 7, 2, 2)
    assert torch.equal(a[:, :, :5], b[:, :, :5]) and (a[:, :, 5:] != b[:, :, 5:]).all()
    torch.testing.assert_close(codec.encode(video[:, :, :17]), a[:, :, :5])
    x, y = codec.decode(a), codec.decode(b)
    assert x.shape == video.shape and torch.equal(x[:, :, :17], y[:, :, :17])


@pytest.mark.parametrize(("shape", "what"), [((10, 16, 16), "10 frames"), ((5, 20, 16), "20x16 pixels")])
def test_sizes_that_it_cannot_take_are_refused(codec: OpenSoraCodec, shape: tuple[int, int, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        codec.encode(torch.zeros(1, 3, *shape))


def test_it_is_frozen_in_fp32_and_reads_its_own_weights(opensora: Path) -> None:
    codec = OpenSoraCodec(opensora / "vae")
    assert not codec._modules.get("vae")
    assert {parameter.dtype for parameter in codec.vae.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in codec.vae.parameters())
    assert len(codec.chunked) == 4
    torch.testing.assert_close(codec.vae.scale.flatten(), torch.tensor([0.85, 0.32, 0.33, 0.6]))


def test_the_published_sizes_are_the_defaults() -> None:
    """300M parameters over time and 83M of the image autoencoder, as its report has it."""
    with torch.device("meta"):
        vae = OpenSoraVAE({})
    counts = [sum(p.numel() for p in part.parameters()) for part in (vae.temporal_vae, vae.spatial_vae)]
    assert counts == [309_687_144, 83_653_863]
    assert {name.split(".")[0] for name in vae.state_dict()} == {"spatial_vae", "temporal_vae", "scale", "shift"}
    names = (
        "encoder.conv_blocks.1.conv.bias", "decoder.conv_blocks.2.conv.weight", "encoder.res_blocks.3.norm2.bias",
        "decoder.block_res_blocks.3.0.conv1.conv.weight", "encoder.block_res_blocks.1.0.conv3.conv.weight",
    )  # fmt: skip
    assert all(f"temporal_vae.{name}" in vae.state_dict() for name in names)
