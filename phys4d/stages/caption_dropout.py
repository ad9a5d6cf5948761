"""Captions that are dropped in training, so that the model can be sampled with classifier-free guidance."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from phys4d.batch import Batch
from phys4d.clips import Clips
from phys4d.engine.resume import FROM_HERE
from phys4d.models.backbone import Backbone

CaptionDropout = Annotated[float, FROM_HERE, Field(ge=0, le=1)]
"""The share of clips whose caption is replaced by what stands for no caption; published models take 0.1."""


def no_caption(text: Tensor, backbone: Backbone, clips: Clips) -> Tensor:
    """What stands for no caption beside tokens `text` [B, L, D]: `Backbone.unconditional`, or the encoder's [L, D]
    tokens of an empty caption. backbone: of the model. clips: hold or encode that caption."""
    none = backbone.unconditional(text)
    return clips.no_caption(text.device).to(text) if none is None else none


def captions(
    batch: Batch, dropout: float, backbone: Backbone, clips: Clips, kept: Sequence[bool] | None = None
) -> Tensor:
    """Tokens [B, L, D] of a batch's captions, in a share of the clips those of `no_caption`.

    Which clips these are depends on the key of each alone. dropout: the share, at 0 none is drawn. backbone, clips: of
    `no_caption`. kept: clips that keep their caption, by place in the batch; default: none has to.
    """
    if dropout == 0:
        return batch.text
    none = no_caption(batch.text, backbone, clips)
    dropped = batch.uniform("caption") < dropout
    if kept is not None:
        dropped = dropped & ~torch.tensor(kept, device=dropped.device)
    return torch.where(dropped[:, None, None], none, batch.text)
