"""Forward-backward check: consistent flow survives, what is covered or leaves the image does not."""

import pytest
import torch

from phys4d.kernels.geometry import forward_backward_mask


def test_translation_keeps_all_but_what_leaves() -> None:
    forward = torch.zeros(1, 2, 6, 8, dtype=torch.float64)
    forward[:, 0] = 3.0
    mask = forward_backward_mask(forward, -forward)
    assert mask[..., :5].all() and not mask[..., 5:].any()


def test_a_covered_background_is_dropped() -> None:
    forward = torch.zeros(1, 2, 5, 12)
    backward = torch.zeros(1, 2, 5, 12)
    forward[:, 0, :, 2:4] = 4.0  # an object two pixels wide moves right by four ...
    backward[:, 0, :, 6:8] = -4.0  # ... and covers columns 6 and 7
    mask = forward_backward_mask(forward, backward)
    assert mask[0, :, 2:4].all()
    assert not mask[0, :, 6:8].any()
    assert mask[0, :, 8:].all()


def test_the_forgiven_gap_is_half_a_squared_pixel() -> None:
    forward = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    backward = torch.full_like(forward, 0.49)  # 2 * 0.49^2 = 0.4802 < 0.01 * 0.4802 + 0.5
    assert forward_backward_mask(forward, backward).all()
    backward = torch.full_like(forward, 0.51)  # 2 * 0.51^2 = 0.5202 > 0.01 * 0.5202 + 0.5
    assert not forward_backward_mask(forward, backward).any()


def test_wrong_arguments_are_named() -> None:
    flow = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"backward: expected shape \[1, 2, 3, 3\], got \[1, 2, 3, 4\]"):
        forward_backward_mask(flow, torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"forward: expected shape \[B, 2, H, W\]"):
        forward_backward_mask(flow[0], flow[0])
