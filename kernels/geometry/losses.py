"""Supervised losses of the depth and motion heads."""

import torch
from torch import Tensor

from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape, masked_mean


def depth_loss(predicted: Tensor, target: Tensor, valid: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean absolute log ratio of two metric depths: 0.1 means ten percent off, near or far.

    Args:
        predicted: [B, T, H, W], metres, positive where valid (float32 or float64).
        target: [B, T, H, W], metres; anything where not valid.
        valid: bool [B, T, H, W].
        weight: [B, T, H, W], not negative; the mean is then weighted (divided by the sum of the clip's weights).

    Returns:
        Scalar, the mean over clips of each clip's mean; 0 with zero gradient for a clip without a valid pixel.

    Raises:
        ValueError: a shape or dtype that does not fit, naming the argument.
    """
    expect_shape("predicted", predicted, ("B", "T", "H", "W"))
    expect_floating("predicted", predicted)
    expect_shape("target", target, predicted.shape)
    expect_mask("valid", valid, predicted.shape)
    if weight is not None:
        expect_shape("weight", weight, predicted.shape)
    # Ones outside the mask keep log's infinite slope at 0 out of the gradient.
    ratio = torch.where(valid, predicted, 1).log() - torch.where(valid, target, 1).log()
    return masked_mean(ratio.abs(), valid, weight)


def flow_loss(predicted: Tensor, target: Tensor, valid: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """L1 distance of two motion fields, summed over channels, averaged over valid pixels.

    Args:
        predicted: [B, C, ..., H, W]: (du, dv) in pixels with C = 2, or dz in metres with C = 1 (pixels and
            metres have their own masks and scales, so they go in separate calls).
        target: like predicted; anything where not valid.
        valid: bool [B, ..., H, W].
        weight: [B, ..., H, W], not negative; the mean is then weighted (divided by the sum of the clip's weights).

    Returns:
        Scalar, the mean over clips of each clip's mean; 0 with zero gradient for a clip without a valid pixel.

    Raises:
        ValueError: a shape or dtype that does not fit, naming the argument.
    """
    if predicted.ndim < 4:
        raise ValueError(f"predicted: expected shape [B, C, ..., H, W], got {list(predicted.shape)}")
    expect_floating("predicted", predicted)
    expect_shape("target", target, predicted.shape)
    pixels = (predicted.shape[0], *predicted.shape[2:])
    expect_mask("valid", valid, pixels)
    if weight is not None:
        expect_shape("weight", weight, pixels)
    error = torch.where(valid.unsqueeze(1), predicted - target, 0).abs().sum(dim=1)
    return masked_mean(error, valid, weight)
