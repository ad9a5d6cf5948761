"""The table [parallel] of a run file: over which ranks weights, clips and the tokens of a clip are divided."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.engine.resume import REGROUPED

FSDP: Final = "fsdp"
DEEPSPEED: Final = "deepspeed"
_OF_FSDP = ("replicate", "context", "reshard_after_forward")  # what DeepSpeed is not asked for


class ParallelConfig(Config):
    """How the ranks divide the work: replicate x shard x context ranks.

    The global batch is divided over replicate x shard ranks, the tokens of each clip over the `context` ranks of a
    group, which see the same clips. Weights and their optimizer state are sharded over shard x context ranks and
    replicated `replicate` times (HSDP): gradients are then summed within a node first.

    replicate: copies of the sharded weights.
    shard: ranks that share one copy of the weights and have clips of their own; default: all that are left.
    context: ranks that divide the tokens of a clip.
    context_method: how attention exchanges the tokens of a clip: "ulysses" (the heads must divide over `context`),
        "ring", or "auto", which is Ulysses where the heads divide.
    reshard_after_forward: whether the gathered weights of a block are released after its forward pass and gathered
        again for its backward pass; "auto" keeps them where all gathered weights take at most a tenth of a device's
        memory.
    strategy: what divides weights and optimizer state: "fsdp" (FSDP2), or "deepspeed" (ZeRO), which knows neither
        `replicate`, `context` nor `reshard_after_forward`.
    zero_stage: with "deepspeed": 2 divides gradients and moments, 3 (the default) also the weights, frozen ones
        included.
    """

    replicate: Annotated[int, REGROUPED] = Field(1, ge=1)
    shard: Annotated[int | None, REGROUPED] = Field(None, ge=1)
    context: Annotated[int, REGROUPED] = Field(1, ge=1)
    context_method: Annotated[Literal["auto", "ulysses", "ring"], REGROUPED] = "auto"
    reshard_after_forward: Annotated[Literal["auto", "always", "never"], REGROUPED] = "auto"
    strategy: Annotated[Literal["fsdp", "deepspeed"], REGROUPED] = FSDP
    zero_stage: Annotated[Literal[2, 3] | None, REGROUPED] = None

    @model_validator(mode="after")
    def _strategy_serves(self) -> Self:
        if self.strategy == FSDP and self.zero_stage is not None:
            raise ValueError(f'zero_stage = {self.zero_stage} is for strategy = "deepspeed": remove it')
        for name in _OF_FSDP if self.strategy == DEEPSPEED else ():
            if (value := getattr(self, name)) != (default := type(self).model_fields[name].default):
                raise ValueError(f'{name}: expected {default!r} with strategy = "deepspeed", not {value!r}')
        return self


@dataclass(frozen=True)
class MeshShape:
    """Sizes of the mesh; the rank of (r, s, c) is (r * shard + s) * context + c."""

    replicate: int = 1
    shard: int = 1
    context: int = 1

    @property
    def data(self) -> int:
        """Parts of the global batch."""
        return self.replicate * self.shard


def mesh_shape(config: ParallelConfig, world_size: int) -> MeshShape:
    """The sizes of the mesh of `world_size` ranks. Raises UserError unless they multiply to it."""
    given = {"replicate": config.replicate, "context": config.context}
    others = config.replicate * config.context
    shard = config.shard
    if shard is None:
        shard = world_size // others
    else:
        given["shard"] = shard
    if shard < 1 or others * shard != world_size:
        product = " x ".join(f"{name} {size}" for name, size in given.items())
        asked = others * (config.shard or 1)
        what = f"does not divide {world_size} processes" if config.shard is None else f"is not {world_size} processes"
        raise UserError(f"parallel: {product} = {asked} {what}: change [parallel], or the number of processes")
    return MeshShape(config.replicate, shard, config.context)
