"""The codec of `small`: sizes, scale, what a latent depends on, and its file."""

from pathlib import Path

import pytest
import torch

from phys4d.models.initial import draw_layers
from phys4d.models.interface import encode_clips
from phys4d.models.small.codec import SmallCodec


@pytest.fixture(scope="module")
def codec() -> SmallCodec:
    made = SmallCodec(channels=3, widths=(8, 12), layers=1)
    draw_layers(made, 3, "codec")
    return made.requires_grad_(False)


def clip(frames: int = 9, height: int = 16, width: int = 24, clips: int = 2) -> torch.Tensor:
    return torch.rand(clips, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (5, 16, 24), (13, 24, 8)])
def test_sizes(codec: SmallCodec, frames: int, height: int, width: int) -> None:
    latents = codec.encode(clip(frames, height, width))
    assert latents.shape == (2, 3, 1 + (frames - 1) // 4, height // 4, width // 4) and latents.is_contiguous()
    assert codec.decode(latents).shape == (2, 3, frames, height, width)


@pytest.mark.parametrize(("size", "said"), [((4, 16, 16), "1 \\+ k \\* 4"), ((5, 12, 16), "multiples of 8")])
def test_other_sizes_are_refused(codec: SmallCodec, size: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        codec.encode(clip(*size))


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_a_token_has_mean_square_one_whatever_it_shows(codec: SmallCodec, gain: float) -> None:
    """Not of a clip, nor of a channel: of every square of 2 x 2 latents."""
    square = codec.encode(gain * clip()).square().mean(1).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert square.max() <= 1 and square.min() > 0.95


def test_each_latent_frame_is_of_its_own_four_frames(codec: SmallCodec) -> None:
    video = clip()
    changed = video.clone()
    changed[:, :, 5:] = 0.3  # the third latent frame's
    latents, other = codec.encode(video), codec.encode(changed)
    torch.testing.assert_close(latents[:, :, :2], other[:, :, :2], rtol=0, atol=0)
    assert not torch.equal(latents[:, :, 2], other[:, :, 2])
    torch.testing.assert_close(codec.encode(video[:, :, :1]), latents[:, :, :1])
    first, last = codec.decode(latents), codec.decode(other)
    torch.testing.assert_close(first[:, :, :5], last[:, :, :5], rtol=0, atol=0)
    assert not torch.equal(first[:, :, 5:], last[:, :, 5:])


def test_clips_do_not_see_each_other(codec: SmallCodec) -> None:
    video = clip(clips=3)
    torch.testing.assert_close(encode_clips(codec, video)[1], codec.encode(video[1:2])[0], rtol=0, atol=0)
    torch.testing.assert_close(encode_clips(codec, video), codec.encode(video))


def test_in_training_latents_are_disturbed_before_they_are_decoded(codec: SmallCodec) -> None:
    video, noise = clip(5), torch.randn(2, 3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(codec(video, noise, 0.25), codec.decode(codec.encode(video) + 0.25 * noise))
    torch.testing.assert_close(codec(video, noise, 0.0), codec.decode(codec.encode(video)))


def test_its_file_is_read_back(codec: SmallCodec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    read = SmallCodec.from_pretrained(tmp_path)
    assert (read.channels, read.config["widths"], read.own) == (3, [8, 12], True)
    torch.testing.assert_close(read.decode(read.encode(clip())), codec.decode(codec.encode(clip())), rtol=0, atol=0)
