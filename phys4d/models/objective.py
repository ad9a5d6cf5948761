"""What the backbone minimises: the rectified-flow loss, in velocity or, for `gated_clean`, in pixels that change."""

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.models.backbone import WanBackbone
from phys4d.models.interface import Prediction

_CHANGE = 0.1  # of the range of 2: a pixel that differs this much from frame 0 counts as changed
_WEIGHT = 3.0


def flow_matching_loss(backbone: WanBackbone, prediction: Prediction, clean: Tensor, noise: Tensor) -> Tensor:
    """Scalar loss over the latent frames after the first; clean, noise [B, C, T', H', W'].

    "velocity": mean squared error to noise - clean. "gated_clean": mean squared error of the pixels, weighted 1, plus 3
    where the true clip differs from its first frame, plus 3 where the predicted one does; unweighted, most of a small
    clip is a still background and the loss is blind to what moves.
    """
    if backbone.gate is None:
        return F.mse_loss(prediction.velocity[:, :, 1:], (noise - clean)[:, :, 1:])
    to_blocks = backbone.gate.codec.to_blocks
    first = to_blocks(clean[:, :, :1])
    true, drawn = to_blocks(clean[:, :, 1:]), to_blocks(prediction.clean[:, :, 1:])
    with torch.no_grad():
        weight = 1 + _WEIGHT * sum(
            ((video - first).abs().amax(-2, keepdim=True) > _CHANGE).float() for video in (true, drawn)
        )
    return ((drawn - true).square() * weight).mean()
