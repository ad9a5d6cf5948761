"""Puts a world model on the device of its process, its weights divided over all ranks."""

from collections.abc import Callable, Collection

import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.distributed.sharding import materialise
from phys4d.engine.training.activations import checkpoint_activations
from phys4d.engine.training.compilation import compile_blocks
from phys4d.models.base_weights import absent_weights, autocast_acts, hold_frozen_in_bf16, read_own_parts
from phys4d.models.world import WorldModel

_ATTENTION = [torch.ops.phys4d.attention.default, torch.ops.phys4d.attention_packed.default]


def place(
    model: WorldModel,
    parallel: Parallel,
    *,
    checkpointing: str = "none",
    compiled: bool = False,
    fill: Callable[[WorldModel, Collection[str]], None] | None = None,
) -> WorldModel:
    """Shards transformer and heads over the ranks (FSDP2), moves everything to the device and reads the weights.

    model: on the CPU, its transformer's parameters possibly on meta. parallel: ranks and device.
    checkpointing: which activations are kept for backward passes, as of `checkpoint_activations`. compiled: whether the
    transformer's blocks are compiled.

    fill: gives parameters and buffers of the transformer with these names their values, which they have not had;
    default: reads them.

    The text encoder is frozen and whole on every rank, and so is the codec unless it is what is trained. Call it when
    adapters are there, requires_grad and the backbone's precision are set. UserError if weights cannot be read.
    """
    backbone = model.backbone
    transformer = backbone.transformer
    if backbone.precision == "bf16" and autocast_acts(parallel.device):
        hold_frozen_in_bf16(transformer, backbone.full_precision)
    if compiled:
        compile_blocks(backbone.blocks, checkpointing, by_size=parallel.context is not None)
    if not (compiled and checkpointing == "selective"):
        checkpoint_activations(backbone.blocks, checkpointing, _ATTENTION)
    absent = absent_weights(transformer)
    parallel.shard(transformer, list(backbone.blocks))
    parallel.shard(model.heads)
    if (codec := model.own_codec) is not None and any(p.requires_grad for p in codec.parameters()):
        parallel.shard(codec)
    materialise(model, parallel.device)
    if absent:
        (fill or _read)(model, absent)
    return model


def _read(model: WorldModel, names: Collection[str]) -> None:
    assert model.weights is not None, names
    read_own_parts(model.backbone.transformer, names, model.weights)
