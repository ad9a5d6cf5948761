"""Codec and text encoder: the numbers of diffusers, counts of frames, and what is refused."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from phys4d.batch import Batch
from phys4d.models.cogvideox.codec import CogVideoXCodec
from phys4d.models.cogvideox.text import T5Encoder
from phys4d.models.interface import cached_shape, encode_for_cache


@pytest.fixture(scope="module")
def codec(cogvideox: Path) -> CogVideoXCodec:
    return CogVideoXCodec(cogvideox / "vae", image_apart="image" in cogvideox.name)


@pytest.mark.parametrize("frames", [1, 9, 17, 49])
def test_latents_are_the_autoencoders_times_its_scale_and_come_back_as_many_frames(
    codec: CogVideoXCodec, cogvideox: Path, frames: int
) -> None:
    stock = AutoencoderKLCogVideoX.from_pretrained(cogvideox / "vae")
    video = torch.rand(1, 3, frames, 16, 24, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    with torch.no_grad():
        raw = stock.encode(video).latent_dist.mode()
        decoded = stock.decode(raw).sample
    latents = codec.encode(video)
    assert latents.shape == (1, 4, 1 + (frames - 1) // 4, 2, 3)
    torch.testing.assert_close(latents, 0.7 * raw)
    again = codec.decode(latents)
    assert again.shape == video.shape
    torch.testing.assert_close(again, decoded, rtol=1e-3, atol=1e-4)


def test_counts_that_would_be_decoded_to_others_and_sides_that_would_be_cut_are_refused(codec: CogVideoXCodec) -> None:
    """13 frames are 4 latent frames, of which diffusers makes 16 frames."""
    with pytest.raises(ValueError, match=r"13 frames: this codec takes 1 \+ k \* 8, such as 9 or 17"):
        codec.encode(torch.zeros(1, 3, 13, 16, 16))
    with pytest.raises(ValueError, match="20x16 pixels"):
        codec.encode(torch.zeros(1, 3, 9, 20, 16))
    with pytest.raises(ValueError, match="4 latent frames: CogVideoX decodes an odd number"):
        codec.decode(torch.zeros(1, 4, 4, 2, 2))
    with torch.no_grad():
        assert codec.vae.decode(torch.zeros(1, 4, 4, 2, 2)).sample.shape[2] == 16


def test_the_conditioning_frame_is_encoded_as_an_image_with_a_cache_and_without(
    codec: CogVideoXCodec, cogvideox: Path
) -> None:
    """For I2V it is not the clip's first latent frame, in whose norms later frames have a part."""
    video = torch.rand(2, 3, 9, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stored = encode_for_cache(codec, video)
    assert stored.shape[1:] == cached_shape(codec, (9, 16, 16))
    nothing, intrinsics = torch.zeros(2, 1, 1), torch.zeros(2, 9, 3, 3)
    read, computed = (
        Batch(pixels, nothing, {}, intrinsics, [(0,), (1,)], latents=latents)
        for pixels, latents in ((video[:, :, :0], stored), (video, None))
    )
    clean = computed.encoded(codec)
    assert torch.equal(read.encoded(codec), clean) and clean.shape == (2, 4, 3, 2, 2)
    first = computed.first(codec, clean)
    assert torch.equal(read.first(codec, clean), first)
    if "image" in cogvideox.name:
        assert codec.image_scale == pytest.approx(1 / 0.49)
        torch.testing.assert_close(first[1:], codec.encode(video[1:, :, :1]))
        assert (first - clean[:, :, :1]).abs().max() > 1e-3
    else:
        assert torch.equal(first, clean[:, :, :1]) and codec.image_scale == 1


def test_a_caption_that_is_too_long_is_refused_and_padding_is_part_of_the_text(cogvideox: Path) -> None:
    text = T5Encoder(cogvideox / "text_encoder", cogvideox / "tokenizer", tokens=10)
    tokens = text(["a red ball", "a"])
    assert tokens.shape == (2, 10, 32) and tokens.dtype == torch.float32 and (tokens.abs().amax(2) > 0).all()
    text([" ".join(["ball"] * 10)])
    with pytest.raises(ValueError, match="a caption of 11 tokens, at most 10 are taken: 'ball ball"):
        text(["a", " ".join(["ball"] * 11)])
