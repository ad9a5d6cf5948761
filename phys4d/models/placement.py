"""Puts a world model on the device of its process, and its weights over all ranks."""

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models.world import WorldModel


def place(model: WorldModel, parallel: Parallel) -> WorldModel:
    """Moves every parameter and buffer to the device, and shards transformer and heads over the ranks (FSDP2).

    Codec and text encoder are frozen and whole on every rank. Call it when adapters are there and requires_grad is set.
    """
    model.to(parallel.device)
    parallel.shard(model.backbone.transformer, list(model.backbone.blocks))
    parallel.shard(model.heads)
    return model
