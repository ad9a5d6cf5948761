"""Adapters as a stage leaves them, without training."""

import torch

from phys4d.models.lora import add_adapter
from phys4d.models.world import WorldModel


def add_lora(model: WorldModel, name: str, *, rank: int = 4, seed: int = 1) -> None:
    """Adds a LoRA of this name on the model's own targets and draws its weights, B among them, so that it acts."""
    transformer = model.backbone.transformer
    add_adapter(transformer, name, rank=rank, seed=seed, targets=model.backbone.lora_targets)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in transformer.named_parameters():
            if f"lora_B.{name}." in key:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
