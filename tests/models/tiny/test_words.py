"""The word encoder: numbers near when close, words bound to what they measure."""

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
