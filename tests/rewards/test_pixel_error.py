"""The judge beside the reward: by hand, 0 on the truth, growing with the error, blind to what does not change."""

import math

import pytest
import torch

from phys4d.rewards.pixel_error import pixel_error


def clips() -> torch.Tensor:
    """Two clips of 3 x 2 x 2 pixels at rest, but for one pixel each."""
    video = torch.zeros(2, 3, 3, 2, 2)
    video[0, :, 1:, 0, 1] = 0.5
    video[1, 2, 2, 1, 1] = -0.15
    return video


def test_by_hand() -> None:
    truth, video = clips(), clips()
    video[0, :, 2, 0, 1] = torch.tensor([0.5, 0.1, 0.9])  # 0, 0.2 and 0.2 of 1 off, of two pixels
    video[0, 0, 1, 1, 1] = 0.3  # a third pixel, which the truth shows at rest: 0.15 off
    video[1, 0, 1, 0, 0] = 0.09  # too little to count
    expected = math.sqrt((2 * 0.2**2 + 0.15**2) / 9)
    torch.testing.assert_close(pixel_error(video, truth), torch.tensor([expected, 0.0]))
    video[1, 2, 2, 1, 1] = -0.05  # the truth alone changes there: 0.05 of 1 off, in one channel of the only pixel
    torch.testing.assert_close(pixel_error(video, truth), torch.tensor([expected, math.sqrt(0.05**2 / 3)]))


def test_it_is_zero_on_the_truth_and_where_nothing_changes() -> None:
    assert pixel_error(clips(), clips()).tolist() == [0, 0]
    still = torch.rand(1, 3, 1, 2, 2).expand(-1, -1, 3, -1, -1)
    assert pixel_error(still, still + 0.3).tolist() == [0]


def test_it_grows_with_the_error_and_flashes_count() -> None:
    truth = clips()
    draw = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    draw[:, :, 0] = 0
    errors = [float(pixel_error(truth + scale * draw, truth)[0]) for scale in (0.2, 0.4, 0.8)]
    assert errors == sorted(errors) and errors[0] > 0.05
    flash = truth.clone()
    flash[:, :, 1] = 1  # one frame
    assert (pixel_error(flash, truth) > 0.3).all()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth_video: expected shape \[2, 3, 3, 2, 2\], got \[2, 3, 2, 2, 2\]"):
        pixel_error(clips(), clips()[:, :, :2])
