"""The definitions of the flow losses in plain torch, against which the kernels are tested."""

import math

import torch
from torch import Tensor

KINDS = ("l1", "charbonnier", "epe", "laplace")  # the kernels identify them by their index


def flow_error(predicted: Tensor, target: Tensor, valid: Tensor, kind: str, confidence: Tensor | None) -> Tensor:
    """Error [B, ..., H, W] of fields [B, C, ..., H, W], as in `flow_loss`; 0 or a constant outside the mask."""
    gap = torch.where(valid.unsqueeze(1), predicted - target, 0)
    if kind == "l1":
        return gap.abs().sum(dim=1)
    if kind == "charbonnier":
        return ((gap.square() + 1e-6).sqrt() - 1e-3).sum(dim=1)
    if kind == "epe":
        squared = gap.square().sum(dim=1)
        # A square root has no derivative at 0: a pixel without error gets gradient 0.
        apart = squared > 0
        return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
    assert confidence is not None
    share, log_scale = torch.where(valid.unsqueeze(1), confidence, 0).unsqueeze(2).unbind(1)
    ordinary = torch.nn.functional.logsigmoid(share) - gap.abs()
    doubtful = torch.nn.functional.logsigmoid(-share) - log_scale - gap.abs() * (-log_scale).exp()
    return (math.log(2) - torch.logaddexp(ordinary, doubtful)).sum(dim=1)


def flow_reference(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, confidence: Tensor | None, kind: str
) -> tuple[Tensor, Tensor]:
    """Loss and sum of weights of each clip [B]; fields [B, C, N], confidence [B, 2, N], valid, weight [B, N]."""
    factor = valid.to(predicted.dtype) if weight is None else torch.where(valid, weight, 0)
    total = factor.sum(1)
    kept = (flow_error(predicted, target, valid, kind, confidence) * factor).sum(1)
    return kept / torch.where(total > 0, total, 1), total
