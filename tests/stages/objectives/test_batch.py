"""A step's clips on one rank in numbers: parts and their shares, what of latents is the first frame, random numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.batch import Batch
from phys4d.engine.random import normal, uniform

KEYS: list[tuple[int | str, ...]] = [(5, "stage", 3, place) for place in range(5)]


class Codec:
    """Four frames to a latent, the first alone; latents are the mean of a frame's pixels, counted in `encoded`."""

    temporal_stride = 4

    def __init__(self, image_apart: bool) -> None:
        self.image_apart, self.encoded = image_apart, 0

    def encode(self, video: Tensor) -> Tensor:
        self.encoded += 1
        return video.mean((1, 3, 4), keepdim=True)[:, :, ::4]

    def encode_image(self, image: Tensor, frames: int) -> Tensor:
        return frames * image.mean((1, 3, 4), keepdim=True)


def batch(latents: Tensor | None = None, **changes: Any) -> Batch:
    number = torch.arange(5.0).view(-1, 1, 1, 1, 1)
    frames = torch.arange(9.0).view(1, 1, -1, 1, 1)
    return Batch(
        **{
            "video": (10 * number + frames).expand(-1, 3, -1, 2, 2), "text": number[:, :, 0, 0].expand(-1, 2, 1),
            "arrays": {"depth": number[:, 0].expand(-1, 9, 2, 2)}, "rng_keys": KEYS, "share": 0.5, "latents": latents,
            "intrinsics": number[:, 0].expand(-1, 9, 3, 3), "affine": (True, False, True, False, False),
        } | changes
    )  # fmt: skip


def test_latents_are_computed_or_read_and_the_first_is_what_generation_is_given() -> None:
    codec: Any = Codec(image_apart=False)
    clean = batch().encoded(codec)
    assert clean[:, 0, :, 0, 0].tolist() == [[10 * k, 10 * k + 4, 10 * k + 8] for k in range(5)]
    assert torch.equal(batch().first(codec, clean), clean[:, :, :1])
    read = torch.randn(5, 1, 3, 1, 1)
    count = codec.encoded
    assert torch.equal(batch(read).encoded(codec), read) and torch.equal(batch(read).first(codec, read), read[:, :, :1])
    assert codec.encoded == count


def test_what_is_read_of_an_image_comes_behind_the_latents_of_a_cache() -> None:
    """Nine frames are three latents; two more hold the image."""
    codec: Any = Codec(image_apart=True)
    both = torch.randn(5, 1, 5, 1, 1)
    clean = batch(both).encoded(codec)
    assert torch.equal(clean, both[:, :, :3]) and torch.equal(batch(both).first(codec, clean), both[:, :, 3:])
    assert codec.encoded == 0
    image = batch().first(codec, batch().encoded(codec))
    assert image.flatten().tolist() == [9 * 10 * k for k in range(5)]


@pytest.mark.parametrize("latents", [None, torch.arange(5.0).view(5, 1, 1, 1, 1)])
def test_clips_at_positions_are_taken_whole_with_their_share(latents: Tensor | None) -> None:
    """Three of five, one of them twice: 3/5 of the share of 1/2."""
    taken = batch(latents).take([3, 0, 3])
    assert taken.text[:, 0, 0].tolist() == taken.arrays["depth"][:, 0, 0, 0].tolist() == [3, 0, 3]
    assert taken.video[:, 0, 0, 0, 0].tolist() == [30, 0, 30] and taken.intrinsics[:, 0, 0, 0].tolist() == [3, 0, 3]
    assert (taken.latents is None) if latents is None else taken.latents.flatten().tolist() == [3, 0, 3]
    assert taken.rng_keys == [KEYS[3], KEYS[0], KEYS[3]] and taken.affine == (False, True, False)
    assert taken.share == pytest.approx(0.3)
    assert batch().take([1], [(7,)]).rng_keys == [(7,)] and batch(affine=()).take([1]).affine == ()


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 1]), (5, [5]), (None, [5]), (9, [5]), (1, [1] * 5)])
def test_micro_batches_are_in_order_and_their_shares_add_up(size: int | None, lengths: list[int]) -> None:
    parts = batch().split(size)
    assert [len(part.rng_keys) for part in parts] == lengths
    assert [key for part in parts for key in part.rng_keys] == KEYS
    assert [part.share for part in parts] == pytest.approx([n / 10 for n in lengths])
    assert batch(share=1.0, affine=()).split(None)[0].share == Batch.share == 1.0


def test_random_numbers_are_those_of_each_clips_key() -> None:
    latents = torch.zeros(5, 2, 3)
    drawn, one = batch().normal_like(latents, "noise"), batch().uniform("sigma")
    assert torch.equal(drawn, torch.stack([normal((2, 3), *key, "noise") for key in KEYS]))
    assert torch.equal(one, torch.stack([uniform((), *key, "sigma") for key in KEYS])) and one.shape == (5,)
