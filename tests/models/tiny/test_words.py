"""The word encoder: numbers near when close, words bound to what they measure."""

import hashlib
import math

import pytest
import torch

from phys4d.models.tiny.words import WordEncoder


def test_same_caption_same_tokens_in_any_encoder() -> None:
    caption = ["a red ball rolling left 1.8 m/s hits a blue box at rest"]
    assert torch.equal(WordEncoder()(caption), WordEncoder()(caption))


def test_close_numbers_are_close_and_words_are_not() -> None:
    def distance(a: str, b: str) -> float:
        return float((WordEncoder()([a]) - WordEncoder()([b])).norm())

    assert distance("left 1.8", "left 1.9") < 0.5 * distance("left 1.8", "left 3.0")
    assert distance("left 1.8", "left 1.9") < 0.5 * distance("left 1.8", "right 1.8")


def test_a_number_carries_its_direction() -> None:
    left, right = WordEncoder()(["left 1.8", "right 1.8"])
    assert not torch.allclose(left[1], right[1])


def test_padding_is_zero_and_long_captions_are_refused() -> None:
    encoder = WordEncoder(tokens=4)
    assert (encoder(["one two"])[0, 2:] == 0).all()
    with pytest.raises(ValueError, match="takes 4"):
        encoder(["one two three four five"])
    assert encoder(["one two three four"]).shape == (1, 4, 64)


def test_it_is_as_wide_and_long_as_the_tiny_model_takes() -> None:
    assert WordEncoder()(["a", "a ball"]).shape == (2, 32, 64)


def test_the_tokens_in_numbers() -> None:
    """Words random, numbers as sines and cosines of six rates, places as half of such, half of the token before."""
    tokens = WordEncoder(width=12, tokens=4)(["Left 1.8 m"])

    def word(text: str) -> torch.Tensor:
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        return torch.randn(12, generator=torch.Generator().manual_seed(seed))

    def waves(value: float, rates: list[float]) -> torch.Tensor:
        return torch.tensor([math.sin(value * r) for r in rates] + [math.cos(value * r) for r in rates])

    number = waves(1.8, [math.exp(-1.5 + 3.5 * k / 5) for k in range(6)])
    place = [0.5 * waves(i, [math.exp(-4 * k / 6) for k in range(6)]) for i in range(3)]
    left, metres = word("left"), word("m")
    expected = [left + place[0], number + place[1] + 0.5 * left, metres + place[2] + 0.5 * number, torch.zeros(12)]
    torch.testing.assert_close(tokens, torch.stack(expected)[None])
