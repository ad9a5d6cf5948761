"""How many tokens a clip has, and which sizes a codec takes."""

import pytest
import torch
from torch import Tensor

from phys4d.models.interface import (
    Codec,
    Grid,
    cached_shape,
    check_clip,
    check_size,
    encode_first,
    encode_for_cache,
    first_frames,
    from_bytes,
    latent_shape,
)
from phys4d.models.tiny.haar import HaarCodec


class Halves(Codec):
    """Latents of one channel: every second row and column of the red of every second frame."""

    channels, temporal_stride, spatial_stride = 1, 2, 2
    image_apart = False

    def encode(self, video: Tensor) -> Tensor:
        return video[:, :1, ::2, ::2, ::2]


class ImageApart(Halves):
    """The same; of the image apart it gives as many frames as the clip has latent ones, and one more, of its number."""

    image_apart = True

    def encode_image(self, image: Tensor, frames: int) -> Tensor:
        number = image[:, :1, :, ::2, ::2].mean((1, 2, 3, 4), keepdim=True)
        return number.expand(len(image), 1, self.image_frames((frames // 2 + 1, 0, 0)), 2, 3)

    def image_frames(self, latents: tuple[int, int, int]) -> int:
        return latents[0] + 1


@pytest.mark.parametrize(
    ("size", "stride", "tokens"),
    [
        ((5, 16, 24), (4, 8, 8), (2, 2, 3)), ((1, 8, 8), (4, 8, 8), (1, 1, 1)), ((4, 16, 8), (4, 8, 8), (1, 2, 1)),
        ((9, 32, 16), (2, 16, 4), (5, 2, 4)), ((3, 2, 2), (1, 1, 1), (3, 2, 2)),
    ],
)  # fmt: skip
def test_the_first_token_frame_holds_one_frame(size: tuple, stride: tuple, tokens: tuple) -> None:
    assert Grid(*size, stride).tokens == tokens


def test_bytes_become_numbers_between_minus_1_and_1() -> None:
    video = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(2, 4, 5, 6, 3)
    numbers = from_bytes(video)
    assert numbers.shape == (2, 3, 4, 5, 6) and numbers.dtype == torch.float32
    torch.testing.assert_close(numbers[1, :, 3, 4, 5], torch.tensor([-1, 1, -0.6]))


def test_the_shape_of_latents() -> None:
    codec = HaarCodec()
    assert latent_shape(codec, (9, 16, 24)) == (192, 3, 4, 6) == codec.encode(torch.zeros(1, 3, 9, 16, 24)).shape[1:]


def test_a_cache_holds_latents_and_behind_them_what_is_read_of_the_image_apart() -> None:
    video = torch.arange(2 * 3 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 3, 4, 6)
    first, size = video[:, :, :1], (3, 4, 6)
    for codec in (Halves(), HaarCodec()):  # the latents tell all of the first frame
        assert first_frames(codec, (2, 2, 3)) == 1 == Halves().image_frames((2, 2, 3))
        assert cached_shape(codec, size) == latent_shape(codec, size)
    assert encode_first(Halves(), first, 3).shape == (2, 1, 1, 2, 3)
    assert torch.equal(encode_for_cache(Halves(), video), video[:, :1, ::2, ::2, ::2])

    codec = ImageApart()
    assert first_frames(codec, (2, 2, 3)) == 3 and cached_shape(codec, size) == (1, 5, 2, 3)
    held = encode_for_cache(codec, video)
    assert held.shape == (2, *cached_shape(codec, size)) and torch.equal(held[:, :, :2], video[:, :1, ::2, ::2, ::2])
    assert held[:, 0, 2:].unique().tolist() == [8, 224]  # the mean red of each first frame
    assert torch.equal(encode_first(codec, first, 3), held[:, :, 2:])


@pytest.mark.parametrize("size", [(1, 8, 16), (5, 8, 16), (13, 24, 16), (5, 16, 32)])
def test_sizes_that_are_taken(size: tuple[int, int, int]) -> None:
    check_size(size, (4, 8, 16))
    check_size((2, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((4, 8, 16), r"4 frames: this codec takes 1 \+ k \* 4, such as 1 or 5, and would drop the rest"),
        ((6, 8, 16), r"6 frames: this codec takes 1 \+ k \* 4, such as 5 or 9"),
        ((12, 8, 16), "such as 9 or 13"), ((0, 8, 16), "0 frames"), ((-3, 8, 16), "-3 frames"),
        ((5, 12, 16), "12x16 pixels: sides must be multiples of 8 and 16"), ((5, 8, 24), "8x24 pixels"),
        ((5, 0, 16), "0x16 pixels"), ((5, 8, 0), "8x0 pixels"),
    ],
)  # fmt: skip
def test_sizes_that_are_refused_with_those_nearby(size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_size(size, (4, 8, 16))


def test_a_clips_size_is_that_of_its_frames_rows_and_columns() -> None:
    check_clip(torch.empty(2, 3, 5, 24, 32), (4, 8, 16))
    for shape, message in (((2, 3, 6, 24, 32), "6 frames"), ((2, 3, 5, 24, 40), "24x40 pixels")):
        with pytest.raises(ValueError, match=message):
            check_clip(torch.empty(shape), (4, 8, 16))
