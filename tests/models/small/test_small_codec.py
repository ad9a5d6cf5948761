"""The codec of `small`: sizes, scale, what a latent depends on, and its file."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

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


@pytest.mark.parametrize(
    ("size", "said"),
    [((4, 16, 16), "1 \\+ k \\* 4"), ((5, 12, 16), "multiples of 8"), ((5, 16, 12), "multiples of 8")],
)
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


def residual(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    inner = F.conv2d(F.silu(x), weights[f"{name}.conv1.weight"], weights[f"{name}.conv1.bias"], padding=1)
    return F.conv2d(F.silu(inner), weights[f"{name}.conv2.weight"], weights[f"{name}.conv2.bias"], padding=1) + x


def test_it_is_these_layers_in_fp64(codec: SmallCodec) -> None:
    """One latent frame and its decoding, written out; dark, so that what is added to the mean square counts."""
    video = 0.01 * clip(1, 8, 16, clips=1)
    weights = {name: tensor.double() for name, tensor in codec.state_dict().items()}

    def conv(name: str, x: Tensor, **settings: int) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **settings)

    block = video.double()[:, :, [0, 0, 0, 0]].flatten(1, 2)  # [1, 12, 8, 16]
    patches = block.view(1, 12, 2, 4, 4, 4).permute(0, 1, 3, 5, 2, 4).reshape(1, 192, 2, 4)
    x = residual(weights, "encoder.1", conv("encoder.0", patches, padding=1))
    x = conv("encoder.4", residual(weights, "encoder.3", conv("encoder.2", x, stride=2)))  # [1, 12, 1, 2]
    x = x / (x.square().mean(1, keepdim=True) + 1e-4).sqrt()
    latents = x.view(1, 3, 2, 2, 1, 2).permute(0, 1, 4, 2, 5, 3).reshape(1, 3, 1, 2, 4)
    torch.testing.assert_close(codec.encode(video).double(), latents, rtol=1e-5, atol=1e-5)
    x = residual(weights, "decoder.1", conv("decoder.0", x, padding=1))
    x = conv("decoder.2", x).view(1, 8, 2, 2, 1, 2).permute(0, 1, 4, 2, 5, 3).reshape(1, 8, 2, 4)
    x = conv("decoder.5", residual(weights, "decoder.4", x), padding=1)
    pixels = x.view(1, 12, 4, 4, 2, 4).permute(0, 1, 4, 2, 5, 3).reshape(1, 3, 4, 8, 16)[:, :, 3:]
    torch.testing.assert_close(codec.decode(latents.float()).double(), pixels, rtol=1e-5, atol=1e-5)


def test_the_codec_of_the_model_that_is_trained() -> None:
    made = SmallCodec()
    assert (made.channels, made.config["widths"], made.config["layers"]) == (16, (96, 160), 2)
    assert sum(parameter.numel() for parameter in made.parameters()) == 3_066_912
    assert not made.image_apart  # its first latent frame is what generation is conditioned on
